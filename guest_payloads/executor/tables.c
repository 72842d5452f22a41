/* Identity page tables for scenarios: as guest tables, or as nested ones. */
#include "executor.h"

#define SMALL (7)               /* present, writable, user */
#define LARGE (0x87)

u32 tables_size(u8 kind)
{
    static const u32 size[] = { 24 * 1024, 20 * 1024, 4 * 1024, 88 * 1024 };
    return kind < COUNT(size) ? size[kind] : 0;
}

/* Four page directories that cover 4 GiB. */
static void fill_directories(u64 *directory)
{
    for (u64 i = 0; i < 2048; i++)
        directory[i] = i << 21 | LARGE;
}

u32 write_tables(u64 address, u8 kind)
{
    u64 *at = (u64 *)address;
    u32 size = tables_size(kind);
    if (kind == 2) {
        for (u32 i = 0; i < 1024; i++)
            ((u32 *)at)[i] = i << 22 | LARGE;
        return size;
    }
    u64 flags = kind == 1 ? 1 : SMALL, *pointers = at;
    if (kind != 1) {
        memset(at, 0, 4096);
        at[0] = (address + 0x1000) | SMALL;
        pointers = at + 512;
    }
    memset(pointers, 0, 4096);
    for (u64 i = 0; i < 4; i++)
        pointers[i] = ((u64)pointers + 0x1000 + i * 0x1000) | flags;
    u64 *directory = pointers + 512;
    fill_directories(directory);
    if (kind == 3) {
        u64 *table = directory + 2048;
        for (u64 i = 0; i < 16; i++)
            directory[i] = ((u64)table + i * 0x1000) | SMALL;
        for (u64 i = 0; i < 16 * 512; i++)
            table[i] = i << 12 | SMALL;
    }
    return size;
}
