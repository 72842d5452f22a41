/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VmcbClean: what the CPU keeps of a VMCB between #VMEXIT and the next VMRUN (APM2 15.15).
 *
 * A kept copy has the physical address of its VMCB as key. VMRUN reads those groups into it whose clean bit is 0, and
 * all of them if there is no copy yet. From then until the #VMEXIT is complete, fields of the groups come from the
 * copy alone; what the CPU stores in the VMCB goes into both. Fields of no group always come from memory.
 *
 * The manual is silent about a VMRUN that is refused: its copy is dropped here. VMSAVE and VMLOAD use no field of a
 * group. RESET and a change of EFER.SVME forget all copies, INIT does not, and a saved machine starts without them.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

#define CLEAN_BITS 0x0c0

typedef struct Group {
    uint16_t offset;
    uint8_t size_bytes;
    uint8_t bit;
} Group;

/* 15.15.3, with the offsets of appendix B. */
static Group groups[] = {
    { 0x000, 0x18, 0 }, { 0x03e, 2, 0 }, { 0x050, 8, 0 },                   /* intercepts, pause count, TSC offset */
    { 0x040, 8, 1 }, { 0x048, 8, 1 },                                       /* IOPM, MSRPM */
    { 0x058, 4, 2 },                                                        /* ASID */
    { 0x060, 8, 3 },                                                        /* V_TPR to V_INTR_VECTOR */
    { 0x0b0, 8, 4 }, { 0x668, 8, 4 },                                       /* N_CR3, G_PAT */
    { 0x4d0, 8, 5 }, { 0x548, 8, 5 }, { 0x550, 8, 5 }, { 0x558, 8, 5 },     /* EFER, CR4, CR3, CR0 */
    { 0x560, 8, 6 }, { 0x568, 8, 6 },                                       /* DR7, DR6 */
    { 0x464, 4, 7 }, { 0x468, 8, 7 }, { 0x484, 4, 7 }, { 0x488, 8, 7 },     /* GDTR, IDTR */
    { 0x400, 0x40, 8 }, { 0x4cb, 1, 8 },                                    /* ES, CS, SS, DS, CPL */
    { 0x640, 8, 9 },                                                        /* CR2 */
    { 0x670, 0x28, 10 },                                                    /* DBGCTL to LASTEXCPTO */
    { 0x098, 8, 11 }, { 0x0e0, 8, 11 }, { 0x0f0, 8, 11 }, { 0x0f8, 8, 11 }, /* AVIC */
    { 0x5e0, 8, 12 }, { 0x5e8, 8, 12 }, { 0x5f0, 8, 12 },                   /* CET */
    { 0, 0, 0 },                                                            /* of nsvm_clean_add() */
};

/* Which bytes of a VMCB are of a group. */
static bool is_of_a_group[NSVM_CLEAN_BYTES + 8];

static void __attribute__((constructor)) fill_is_of_a_group(void)
{
    for (int i = 0; i < ARRAY_SIZE(groups); i++) {
        memset(is_of_a_group + groups[i].offset, true, groups[i].size_bytes);
    }
}

/* A field that the manual has in no group: a fault of this machine. */
void nsvm_clean_add(unsigned offset, unsigned size_bytes, int bit)
{
    groups[ARRAY_SIZE(groups) - 1] = (Group) { offset, size_bytes, bit };
    memset(is_of_a_group + offset, true, size_bytes);
}

static void vmcb_read(CPUX86State *env, unsigned offset, void *buffer, unsigned size_bytes)
{
    MemTxAttrs attributes = cpu_get_mem_attrs(env);

    address_space_read(cpu_addressspace(env_cpu(env), attributes), env->vm_vmcb + offset, attributes, buffer,
                       size_bytes);
}

static uint8_t *copy_in_use(CPUX86State *env)
{
    return env->nsvm.clean.copies[env->nsvm.clean.index].image;
}

/* Copies have the address as key, with bit 0 set: 0 is none. Finds this one's, or else the one used longest ago. */
static NsvmVmcbCopy *find(CPUX86State *env, uint64_t key)
{
    uint32_t count = MIN(MAX(env->nsvm_config.clean.entries, 1), NSVM_CLEAN_COPIES);
    NsvmVmcbCopy *copies = env->nsvm.clean.copies, *oldest = copies;

    for (uint32_t i = 0; i < count; i++) {
        if (copies[i].key == key) {
            return &copies[i];
        }
        if (copies[i].last_use < oldest->last_use) {
            oldest = &copies[i];
        }
    }
    return oldest;
}

/* xorshift64: the same seed, the same choices. */
static uint32_t random_bits(CPUX86State *env)
{
    uint64_t value = env->nsvm.clean.random ? env->nsvm.clean.random : (env->nsvm_config.clean.seed << 1 | 1);

    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
    env->nsvm.clean.random = value;
    return value >> 16;
}

static uint32_t groups_to_keep(CPUX86State *env)
{
    uint32_t clean;

    vmcb_read(env, CLEAN_BITS, &clean, sizeof(clean));
    clean = le32_to_cpu(clean);
    switch (env->nsvm_config.clean.mode[0]) {
    case 'k':
        return clean;
    case 'r':
        return env->nsvm_config.clean.mode[1] == 'a' ? clean & random_bits(env) : 0;
    }
    g_assert_not_reached();
}

/* Before VMRUN looks at the VMCB. */
void nsvm_clean_vmrun(CPUX86State *env)
{
    uint64_t key = env->vm_vmcb | 1;
    uint32_t keep = 0;
    NsvmVmcbCopy *copy;

    env->nsvm.clean.in_use = 0;
    env->nsvm.clean.drop = false;
    if (!nsvm_has(env, CPUID_SVM_VMCBCLEAN)) {
        return;
    }
    key = nsvm_fault_clean_key(key);
    copy = find(env, key);
    if (copy->key == key) {
        keep = nsvm_fault_clean_bits(groups_to_keep(env));
    }
    for (int i = 0; i < ARRAY_SIZE(groups); i++) {
        if (!(keep >> groups[i].bit & 1) && !(copy->key == key && nsvm_fault_clean_trusts(groups[i].offset, keep))) {
            vmcb_read(env, groups[i].offset, copy->image + groups[i].offset, groups[i].size_bytes);
        }
    }
    copy->key = key;
    copy->last_use = ++env->nsvm.clean.uses;
    env->nsvm.clean.index = copy - env->nsvm.clean.copies;
    /* At address 0 everything is read from memory: no VMCB of this world is there. */
    env->nsvm.clean.in_use = env->vm_vmcb;
}

void nsvm_clean_note_exit(CPUX86State *env, uint64_t exit_code)
{
    env->nsvm.clean.drop = exit_code == SVM_EXIT_ERR;
}

/* #VMEXIT is complete. */
void nsvm_clean_vmexit(CPUX86State *env)
{
    if (env->nsvm.clean.in_use && env->nsvm.clean.drop) {
        env->nsvm.clean.copies[env->nsvm.clean.index].key = 0;
    }
    env->nsvm.clean.in_use = 0;
}

static void forget(CPUX86State *env)
{
    for (int i = 0; i < NSVM_CLEAN_COPIES; i++) {
        env->nsvm.clean.copies[i].key = 0;
    }
}

/* A guest may do this too: its copy stays in use until its #VMEXIT. */
void nsvm_clean_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value)
{
    if (msr == MSR_EFER && ((value ^ env->efer) & MSR_EFER_SVME)) {
        forget(env);
    }
}

void nsvm_clean_post_load(CPUX86State *env)
{
    memset(&env->nsvm.clean, 0, sizeof(env->nsvm.clean));
}

/* A field of the VMCB in use: byte by byte, since one access can reach over the end of a group. */
uint64_t nsvm_clean_load(CPUX86State *env, hwaddr address, unsigned size_bytes)
{
    unsigned offset = address - env->nsvm.clean.in_use, kept = 0;
    uint8_t bytes[8] = { 0 };

    for (unsigned i = 0; i < size_bytes; i++) {
        kept += is_of_a_group[offset + i];
    }
    if (kept < size_bytes) {
        vmcb_read(env, offset, bytes, size_bytes);
    }
    for (unsigned i = 0; kept && i < size_bytes; i++) {
        if (is_of_a_group[offset + i]) {
            bytes[i] = copy_in_use(env)[offset + i];
        }
    }
    return ldq_le_p(bytes);
}

void nsvm_clean_store(CPUX86State *env, hwaddr address, uint64_t value, unsigned size_bytes)
{
    uint8_t bytes[8];

    if (nsvm_fault(NSVM_FAULT_CLEAN_COPY_WITHOUT_EXIT)) {
        return;
    }
    stq_le_p(bytes, value);
    memcpy(copy_in_use(env) + (address - env->nsvm.clean.in_use), bytes, size_bytes);
}

/* For QEMU's code that loads and saves segments through its TLB. */
void nsvm_clean_load_seg(CPUX86State *env, int mmu_idx, hwaddr address, SegmentCache *segment, unsigned *attributes)
{
    if (mmu_idx == MMU_PHYS_IDX && nsvm_clean_has(env, address)) {
        segment->selector = nsvm_clean_load(env, address + offsetof(struct vmcb_seg, selector), 2);
        segment->base = nsvm_clean_load(env, address + offsetof(struct vmcb_seg, base), 8);
        segment->limit = nsvm_clean_load(env, address + offsetof(struct vmcb_seg, limit), 4);
        *attributes = nsvm_clean_load(env, address + offsetof(struct vmcb_seg, attrib), 2);
    }
}

void nsvm_clean_save_seg(CPUX86State *env, int mmu_idx, hwaddr address, const SegmentCache *segment)
{
    if (mmu_idx == MMU_PHYS_IDX && nsvm_clean_has(env, address)) {
        nsvm_clean_store(env, address + offsetof(struct vmcb_seg, selector), segment->selector, 2);
        nsvm_clean_store(env, address + offsetof(struct vmcb_seg, base), segment->base, 8);
        nsvm_clean_store(env, address + offsetof(struct vmcb_seg, limit), segment->limit, 4);
        nsvm_clean_store(env, address + offsetof(struct vmcb_seg, attrib),
                         (segment->flags >> 8 & 0xff) | (segment->flags >> 12 & 0xf00), 2);
    }
}

/* Returns whether x-nsvm-vmcb-clean has a value that there is, else says so in `errp`. */
bool nsvm_clean_check_config(CPUX86State *env, Error **errp)
{
    const char *mode;

    if (!env->nsvm_config.clean.mode) {
        env->nsvm_config.clean.mode = g_strdup("keep"); /* a string property has no default of its own */
    }
    mode = env->nsvm_config.clean.mode;
    if (!strcmp(mode, "keep") || !strcmp(mode, "read") || !strcmp(mode, "random")) {
        return true;
    }
    error_setg(errp, "x-nsvm-vmcb-clean=%s: say keep, read or random", mode);
    return false;
}
