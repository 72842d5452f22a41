/* What memory a scenario may touch, and the steps that touch it. */
#include "executor.h"

static int within(u64 address, u64 size, u64 base, u64 base_size)
{
    return address >= base && size <= base_size && address - base <= base_size - size;
}

int in_scenario_memory(u64 address, u64 size)
{
    return within(address, size, ARENA_BASE, ARENA_SIZE) || within(address, size, LOW_BASE, LOW_SIZE);
}

static int readable(u64 address, u64 size)
{
    return in_scenario_memory(address, size) || within(address, size, (u64)image_start, (u64)(image_end - image_start));
}

u8 step_mem_write(struct in *in)
{
    u64 address = get64(in);
    u32 size = in->left;
    if (in->bad)
        return STATUS_BAD_STEP;
    if (!in_scenario_memory(address, size))
        return STATUS_BAD_ADDRESS;
    memcpy((void *)address, get_bytes(in, size), size);
    return STATUS_OK;
}

u8 step_mem_fill(struct in *in)
{
    u64 address = get64(in);
    u32 size = get32(in);
    u8 byte = get8(in);
    if (in->bad || in->left)
        return STATUS_BAD_STEP;
    if (!in_scenario_memory(address, size))
        return STATUS_BAD_ADDRESS;
    memset((void *)address, byte, size);
    return STATUS_OK;
}

u8 step_mem_read(struct in *in, struct out *out)
{
    u64 address = get64(in);
    u32 size = get32(in);
    if (in->bad || in->left)
        return STATUS_BAD_STEP;
    if (!readable(address, size))
        return STATUS_BAD_ADDRESS;
    put_bytes(out, (const void *)address, size);
    return STATUS_OK;
}

u8 step_mem_copy(struct in *in)
{
    u64 to = get64(in), from = get64(in);
    u32 size = get32(in);
    if (in->bad || in->left)
        return STATUS_BAD_STEP;
    if (!in_scenario_memory(to, size) || !readable(from, size))
        return STATUS_BAD_ADDRESS;
    memmove((void *)to, (const void *)from, size);
    return STATUS_OK;
}

u8 step_tables(struct in *in, struct out *out)
{
    u64 address = get64(in);
    u8 kind = get8(in);
    if (in->bad || in->left || !tables_size(kind) || address & 0xFFF)
        return STATUS_BAD_STEP;
    if (!in_scenario_memory(address, tables_size(kind)))
        return STATUS_BAD_ADDRESS;
    put32(out, write_tables(address, kind));
    return STATUS_OK;
}
