/* The state of L1 that VMRUN and #VMEXIT must leave as it was. */
#include "executor.h"

static const u32 candidate_msrs[] = {
    0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084, 0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103,
    0x174, 0x175, 0x176, 0x277, 0x1D9, 0xC0010114, 0xC0010117, 0x2FF,
};
static struct host_state kept[CPUS_MAX][KEPT_STATES] NOINIT;
static u16 kept_serials[CPUS_MAX][KEPT_STATES], last_serial[CPUS_MAX];
static u32 msrs[COUNT(candidate_msrs)], msr_count;
_Static_assert(ITEM_REGISTERS - 1 + COUNT(candidate_msrs) <= HOST_ITEMS_MAX, "room for every item");

struct pointer {
    u16 limit;
    u64 base;
} PACKED;

/* Leaves out what this machine does not have. */
void choose_host_items(void)
{
    u64 value;
    this_cpu()->quiet = 1;
    for (u32 i = 0; i < COUNT(candidate_msrs); i++)
        if (!try_rdmsr(candidate_msrs[i], &value))
            msrs[msr_count++] = candidate_msrs[i];
    this_cpu()->quiet = 0;
}

#define READ(item, instruction) __asm__ volatile(instruction : "=r"(v[(item) - 1]))

void read_host_state(struct host_state *state, u64 efer)
{
    u64 *v = state->value;
    struct pointer pointer;
    READ(ITEM_CS, "movq %%cs, %0");
    READ(ITEM_SS, "movq %%ss, %0");
    READ(ITEM_DS, "movq %%ds, %0");
    READ(ITEM_ES, "movq %%es, %0");
    READ(ITEM_FS, "movq %%fs, %0");
    READ(ITEM_GS, "movq %%gs, %0");
    READ(ITEM_TR, "strq %0");
    READ(ITEM_LDTR, "sldtq %0");
    __asm__ volatile("sgdt %0" : "=m"(pointer));
    v[ITEM_GDTR_BASE - 1] = pointer.base;
    v[ITEM_GDTR_LIMIT - 1] = pointer.limit;
    __asm__ volatile("sidt %0" : "=m"(pointer));
    v[ITEM_IDTR_BASE - 1] = pointer.base;
    v[ITEM_IDTR_LIMIT - 1] = pointer.limit;
    READ(ITEM_CR0, "movq %%cr0, %0");
    READ(ITEM_CR2, "movq %%cr2, %0");
    READ(ITEM_CR3, "movq %%cr3, %0");
    READ(ITEM_CR4, "movq %%cr4, %0");
    READ(ITEM_CR8, "movq %%cr8, %0");
    READ(ITEM_DR0, "movq %%dr0, %0");
    READ(ITEM_DR1, "movq %%dr1, %0");
    READ(ITEM_DR2, "movq %%dr2, %0");
    READ(ITEM_DR3, "movq %%dr3, %0");
    READ(ITEM_DR6, "movq %%dr6, %0");
    READ(ITEM_DR7, "movq %%dr7, %0");
    READ(ITEM_RFLAGS, "pushfq; popq %0");
    READ(ITEM_RSP, "movq %%rsp, %0");
    for (u32 item = ITEM_CS; item <= ITEM_LDTR; item++)
        v[item - 1] &= 0xFFFF;
    v[ITEM_EFER - 1] = efer;
    v[ITEM_XCR0 - 1] = 0;
    if (v[ITEM_CR4 - 1] >> 18 & 1) {
        u32 low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        v[ITEM_XCR0 - 1] = low | (u64)high << 32;
    }
    v[ITEM_RAX - 1] = 0;
    for (u32 i = 0; i < msr_count; i++) {
        v[ITEM_REGISTERS - 1 + i] = 0;
        try_rdmsr(msrs[i], &v[ITEM_REGISTERS - 1 + i]);
    }
}

/* Where the state before the next VMRUN goes, and by which number it is asked for; none has the number 0. */
struct host_state *keep_state(u32 cpu, u16 *serial)
{
    *serial = ++last_serial[cpu] ? last_serial[cpu] : ++last_serial[cpu];
    kept_serials[cpu][*serial % KEPT_STATES] = *serial;
    return &kept[cpu][*serial % KEPT_STATES];
}

const struct host_state *kept_state(u32 cpu, u16 serial)
{
    if (cpu >= CPUS_MAX || !serial || kept_serials[cpu][serial % KEPT_STATES] != serial)
        return 0;
    return &kept[cpu][serial % KEPT_STATES];
}

static void put_kind_and_number(struct out *out, u32 index)
{
    int is_msr = index >= ITEM_REGISTERS - 1;
    put16(out, is_msr ? 1 : 0);
    put16(out, 0);
    put32(out, is_msr ? msrs[index - (ITEM_REGISTERS - 1)] : index + 1);
}

/* All but XCR0 where there is none, and RAX, which is the operand of a VMRUN and means nothing elsewhere. */
void put_host_state(struct out *out, const struct host_state *state)
{
    u32 start = out->size;
    u16 count = 0;
    put32(out, 0);
    for (u32 i = 0; i < ITEM_REGISTERS - 1 + msr_count; i++) {
        if (i == ITEM_RAX - 1 || (i == ITEM_XCR0 - 1 && !(state->value[ITEM_CR4 - 1] >> 18 & 1)))
            continue;
        put_kind_and_number(out, i);
        put64(out, state->value[i]);
        count++;
    }
    if (!out->full)
        memcpy(out->base + start, &count, 2);
}

u32 put_host_differences(struct out *out, const struct host_state *before, const struct host_state *after)
{
    u32 count = 0;
    for (u32 i = 0; i < ITEM_REGISTERS - 1 + msr_count; i++) {
        if (before->value[i] == after->value[i])
            continue;
        put_kind_and_number(out, i);
        put64(out, before->value[i]);
        put64(out, after->value[i]);
        count++;
    }
    return count;
}
