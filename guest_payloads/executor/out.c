/* Bounded writing and reading of little-endian, unaligned records. */
#include "executor.h"

void put_bytes(struct out *out, const void *bytes, u32 size)
{
    if (size > out->max - out->size) {
        out->full = 1;
        return;
    }
    memcpy(out->base + out->size, bytes, size);
    out->size += size;
}
void put8(struct out *out, u8 value) { put_bytes(out, &value, 1); }
void put16(struct out *out, u16 value) { put_bytes(out, &value, 2); }
void put32(struct out *out, u32 value) { put_bytes(out, &value, 4); }
void put64(struct out *out, u64 value) { put_bytes(out, &value, 8); }

void put_text(struct out *out, const char *text)
{
    u32 size = 0;
    while (size < NOTE_MAX && text[size])
        size++;
    put_bytes(out, text, size);
}

void put_hex(struct out *out, u64 value)
{
    int shift = 60;
    while (shift > 0 && !(value >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put8(out, (u8)"0123456789abcdef"[value >> shift & 15]);
}

const u8 *get_bytes(struct in *in, u32 size)
{
    static const u8 nothing[16];
    const u8 *at = in->at;
    if (in->bad || size > in->left) {
        in->bad = 1;
        return nothing;         /* callers read at most 8 bytes before they look at `bad` */
    }
    in->at += size;
    in->left -= size;
    return at;
}
u8 get8(struct in *in) { return *get_bytes(in, 1); }
u16 get16(struct in *in)
{
    u16 value;
    memcpy(&value, get_bytes(in, 2), 2);
    return value;
}
u32 get32(struct in *in)
{
    u32 value;
    memcpy(&value, get_bytes(in, 4), 4);
    return value;
}
u64 get64(struct in *in)
{
    u64 value;
    memcpy(&value, get_bytes(in, 8), 8);
    return value;
}
