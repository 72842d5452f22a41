/* The four functions a C compiler may call on its own. */
#include "types.h"
#undef memcpy
#undef memset

void *memcpy(void *to, const void *from, unsigned long size)
{
    void *result = to;
    unsigned long words = size / 8;
    size %= 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, unsigned long size)
{
    if ((u64)to - (u64)from >= size)
        return memcpy(to, from, size);
    u8 *last_to = (u8 *)to + size - 1;
    const u8 *last_from = (const u8 *)from + size - 1;
    __asm__ volatile("std; rep movsb; cld" : "+D"(last_to), "+S"(last_from), "+c"(size) : : "memory");
    return to;
}

void *memset(void *to, int byte, unsigned long size)
{
    void *result = to;
    u64 pattern = (u8)byte * 0x0101010101010101ull;
    unsigned long words = size / 8;
    size %= 8;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(pattern) : "memory");
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(pattern) : "memory");
    return result;
}

int memcmp(const void *a, const void *b, unsigned long size)
{
    const u8 *left = a, *right = b;
    for (unsigned long i = 0; i < size; i++)
        if (left[i] != right[i])
            return left[i] - right[i];
    return 0;
}
