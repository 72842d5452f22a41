/* HELLO: what this executor and its machine are. */
#include "executor.h"

u8 lane_request[LANE_REQUEST_SIZE] NOINIT PAGE_ALIGNED, lane_answer[LANE_ANSWER_SIZE] NOINIT PAGE_ALIGNED;

static u64 boot_id;

/* The TSC alone repeats from boot to boot on a deterministic emulator: the clock chip's time goes in too. */
static u64 make_boot_id(void)
{
    u64 value = rdtsc();
    for (u8 reg = 0; reg < 10; reg += 2) {
        out8(0x70, reg);
        value = (value ^ in8(0x71)) * 0x9E3779B97F4A7C15ull;
        value ^= value >> 29;
    }
    return value ? value : 1;
}

static u32 put_leaf(struct out *out, u32 leaf, u32 subleaf)
{
    u32 r[4];
    cpuid(leaf, subleaf, r);
    put32(out, leaf);
    put32(out, subleaf);
    put_bytes(out, r, sizeof(r));
    return 1;
}

static u32 put_leaves(struct out *out)
{
    static const u32 extended[] = { 0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000007, 0x80000008, 0x8000000A,
                                    0x8000001F, 0x80000021 };
    u32 r[4], basic_max, extended_max, count = 0;
    cpuid(0, 0, r);
    basic_max = r[0];
    count += put_leaf(out, 0, 0);
    count += put_leaf(out, 1, 0);
    if (basic_max >= 7) {
        count += put_leaf(out, 7, 0);
        cpuid(7, 0, r);
        if (r[0] >= 1)
            count += put_leaf(out, 7, 1);
    }
    if (basic_max >= 0xD) {
        count += put_leaf(out, 0xD, 0);
        count += put_leaf(out, 0xD, 1);
    }
    cpuid(1, 0, r);
    if (r[2] >> 31)
        count += put_leaf(out, 0x40000000, 0);
    cpuid(0x80000000, 0, r);
    extended_max = r[0];
    count += put_leaf(out, 0x80000000, 0);
    for (u32 i = 0; i < COUNT(extended); i++)
        if (extended_max >= extended[i])
            count += put_leaf(out, extended[i], 0);
    return count;
}

void put_hello(struct out *out, u8 cause)
{
    if (!boot_id)
        boot_id = make_boot_id();
    put16(out, PROTOCOL_VERSION);
    put8(out, cause);
    put8(out, (u8)cpu_count);
    put_bytes(out, build_note + 16, 16);        /* after the note's header and name "GNU" */
    put64(out, boot_id);
    put64(out, ARENA_BASE);
    put64(out, ARENA_SIZE);
    put32(out, FRAME_BODY_MAX);
    put32(out, ANSWER_MAX);
    put64(out, (u64)lane_request);
    put32(out, LANE_REQUEST_SIZE);
    put64(out, (u64)lane_answer);
    put32(out, LANE_ANSWER_SIZE);
    put64(out, LOW_BASE);
    put32(out, LOW_SIZE);
    put64(out, (u64)long_tables);
    put32(out, boot_kind);
    put64(out, boot.bundle);
    put32(out, (u32)boot.bundle_size);
    u32 count_at = out->size;
    put32(out, 0);
    u32 count = put_leaves(out);
    if (!out->full)
        memcpy(out->base + count_at, &count, 4);
}
