/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Misbehaviour on demand: x-nsvm-fault=NAME (reference_machine/faults.toml says what each does). Those that are one
 * line stand where they do their harm; here are the others, and what is common. Without a fault each place costs one
 * compare, none of them in translated code.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "hw/i386/apic.h"
#include "target/i386/nsvm/faults.c.inc"

#define EXITINFO1_NPF_FINAL (1ULL << 32)
#define EXITINFO1_NPF_WALK (1ULL << 33)
#define ALWAYS -1

NsvmFault nsvm_fault_chosen = NSVM_FAULT_NONE;

static const NsvmFaultRule *rule(void)
{
    return &nsvm_fault_rules[nsvm_fault_chosen];
}

/* Returns whether x-nsvm-fault is a fault that there is, else says so in `errp`. */
bool nsvm_fault_check_config(CPUX86State *env, Error **errp)
{
    const char *name = env->nsvm_config.fault.name;

    if (!name || !*name) {
        return true;
    }
    for (int i = NSVM_FAULT_NONE + 1; i < ARRAY_SIZE(nsvm_fault_rules); i++) {
        if (!strcmp(nsvm_fault_rules[i].name, name)) {
            nsvm_fault_chosen = i;
            if (nsvm_fault_rules[i].adds_bytes) {
                nsvm_clean_add(nsvm_fault_rules[i].offset, nsvm_fault_rules[i].adds_bytes, nsvm_fault_rules[i].bit);
            }
            return true;
        }
    }
    error_setg(errp, "x-nsvm-fault=%s: there is no such fault (./nsvm reference faults lists them)", name);
    return false;
}

hwaddr nsvm_fault_source_slow(CPUX86State *env, hwaddr address)
{
    hwaddr field = rule()->offset;

    if (rule()->kind == NSVM_FAULT_HOST_KEEPS && env->vm_vmcb && address - env->vm_hsave == field) {
        return env->vm_vmcb + field;
    }
    /* GDTR, IDTR and the segments: all parts of one. */
    if (rule()->kind == NSVM_FAULT_GUEST_KEEPS && env->vm_hsave && address - env->vm_vmcb == field) {
        return env->vm_hsave + field;
    }
    return address;
}

bool nsvm_fault_drops_slow(CPUX86State *env, hwaddr address)
{
    return rule()->kind == NSVM_FAULT_DROPS && env->vm_vmcb && address - env->vm_vmcb == rule()->offset;
}

/* Whether the intercept with this exit code is never asked. */
bool nsvm_fault_loses(uint32_t exit_code)
{
    for (int i = 0; nsvm_fault_active() && i < rule()->count; i++) {
        if (rule()->codes[i] == exit_code) {
            return true;
        }
    }
    return false;
}

/* Whether an intercept is not asked for this encoding of its instruction. */
bool nsvm_fault_encoding(CPUX86State *env, uint32_t exit_code, uintptr_t retaddr)
{
    uint32_t insn;

    if (!nsvm_fault_active() || !retaddr) {
        return false;
    }
    insn = nsvm_insn_at(env, retaddr);
    switch (nsvm_fault_chosen) {
    case NSVM_FAULT_INTERCEPT_LOST_WITH_REX:
        return (insn & NSVM_INSN_MOV_CR_DR) && NSVM_INSN_GPR(insn) >= 8;
    case NSVM_FAULT_INTERCEPT_LOST_SMSW:
        return exit_code == SVM_EXIT_READ_CR0 && !(insn & NSVM_INSN_MOV_CR_DR);
    case NSVM_FAULT_INTERCEPT_LOST_LMSW:
        return exit_code == SVM_EXIT_WRITE_CR0 && !(insn & NSVM_INSN_MOV_CR_DR);
    case NSVM_FAULT_INTERCEPT_LOST_LONG_CPUID:
        return exit_code == SVM_EXIT_CPUID && NSVM_INSN_LENGTH(insn) > 2;
    default:
        return false;
    }
}

static uint64_t without(NsvmFault fault, uint64_t bits, uint64_t value)
{
    return nsvm_fault(fault) ? value & ~bits : value;
}

static void exit_of_nested_page_fault(CPUX86State *env, uint64_t *info)
{
    uint64_t address = nsvm_vmcb_ldq(env, offsetof(struct vmcb, control.exit_info_2));

    *info = without(NSVM_FAULT_NPF_WITHOUT_P, PG_ERROR_P_MASK, *info);
    *info = without(NSVM_FAULT_NPF_WITHOUT_W, PG_ERROR_W_MASK, *info);
    *info = without(NSVM_FAULT_NPF_WITHOUT_U, PG_ERROR_U_MASK, *info);
    *info = without(NSVM_FAULT_NPF_WITHOUT_RSV, PG_ERROR_RSVD_MASK, *info);
    *info = without(NSVM_FAULT_NPF_WITHOUT_ID, PG_ERROR_I_D_MASK, *info);
    if (nsvm_fault(NSVM_FAULT_NPF_WALK_AS_FINAL) && (*info & EXITINFO1_NPF_WALK)) {
        *info ^= EXITINFO1_NPF_WALK | EXITINFO1_NPF_FINAL;
    }
    if (nsvm_fault(NSVM_FAULT_NPF_ADDRESS_OF_PAGE)) {
        nsvm_vmcb_stq(env, offsetof(struct vmcb, control.exit_info_2), address & TARGET_PAGE_MASK);
    }
}

/* At an exit, before its code and EXITINFO1 are stored. */
void nsvm_fault_exit(CPUX86State *env, uint64_t *exit_code, uint64_t *exit_info_1)
{
    if (!nsvm_fault_active()) {
        return;
    }
    switch (*exit_code) {
    case SVM_EXIT_ERR:
        if (nsvm_fault(NSVM_FAULT_INVALID_CODE_OF_32_BITS)) {
            *exit_code = (uint32_t)*exit_code;
        }
        break;
    case SVM_EXIT_NPF:
        exit_of_nested_page_fault(env, exit_info_1);
        break;
    case SVM_EXIT_EXCP_BASE + EXCP0D_GPF:
        if (nsvm_fault(NSVM_FAULT_GP_ERROR_MISSING)) {
            *exit_info_1 = 0;
        }
        break;
    case SVM_EXIT_EXCP_BASE + EXCP0E_PAGE:
        *exit_info_1 = without(NSVM_FAULT_PF_ERROR_WITHOUT_W, PG_ERROR_W_MASK, *exit_info_1);
        if (nsvm_fault(NSVM_FAULT_PF_INTERCEPT_WRITES_CR2)) {
            env->cr[2] = nsvm_vmcb_ldq(env, offsetof(struct vmcb, control.exit_info_2));
        }
        break;
    }
}

/* VMRUN has loaded the guest's state. */
void nsvm_fault_guest(CPUX86State *env)
{
    switch (nsvm_fault_chosen) {
    case NSVM_FAULT_GUEST_SHADOW_NOT_LOADED:
        env->hflags &= ~HF_INHIBIT_IRQ_MASK;
        break;
    case NSVM_FAULT_GUEST_RF_NOT_LOADED:
        env->eflags &= ~RF_MASK;
        break;
    case NSVM_FAULT_GIF_V_GIF_IGNORED:
        env->int_ctl &= ~V_GIF_ENABLED_MASK;
        break;
    case NSVM_FAULT_V_IGN_TPR_IGNORED:
        env->int_ctl &= ~V_IGN_TPR_MASK;
        break;
    case NSVM_FAULT_V_INTR_MASKING_IGNORED:
        env->hflags2 &= ~(HF2_VINTR_MASK | HF2_HIF_MASK);
        break;
    case NSVM_FAULT_NP_NXE_OF_GUEST:
        if (env->hflags2 & HF2_NPT_MASK) {
            env->nested_pg_mode = get_pg_mode(env) & (PG_MODE_SVM_MASK | PG_MODE_PG | PG_MODE_SMEP);
        }
        break;
    default:
        break;
    }
}

/* VMRUN has set GIF and looked at V_IRQ. */
void nsvm_fault_virq(CPUX86State *env)
{
    if (nsvm_fault(NSVM_FAULT_GIF_NOT_SET_BY_VMRUN)) {
        env->hflags2 &= ~HF2_GIF_MASK;
    }
    if (nsvm_fault(NSVM_FAULT_V_TPR_IGNORED) && (env->int_ctl & V_IRQ_MASK)) {
        env_cpu(env)->interrupt_request |= CPU_INTERRUPT_VIRQ;
    }
}

/* MOV to CR8 has changed V_TPR. */
void nsvm_fault_cr8(CPUX86State *env)
{
    if (nsvm_fault(NSVM_FAULT_V_CR8_WRITTEN_THROUGH) && (env->hflags2 & HF2_VINTR_MASK)) {
        bql_lock();
        cpu_set_apic_tpr(env_archcpu(env)->apic_state, env->int_ctl & V_TPR_MASK);
        bql_unlock();
    }
}

/* #VMEXIT has saved the guest. */
void nsvm_fault_saved(CPUX86State *env)
{
    if (nsvm_fault(NSVM_FAULT_ASID_CONTROL_WRITTEN)) {
        nsvm_vmcb_stb(env, offsetof(struct vmcb, control.tlb_ctl), 0);
    }
    if (nsvm_fault(NSVM_FAULT_EXITINTINFO_MISSING_INJECTED)
        && (env->nsvm.events.injecting || env->nsvm.events.injected)) {
        env->nsvm.events.info = 0;
        env->nsvm.events.error_code = 0;
    }
}

static uint32_t changed_event(CPUX86State *env, uint32_t event)
{
    uint8_t vector = event & SVM_EVTINJ_VEC_MASK;
    bool is_soft = (event & SVM_EVTINJ_TYPE_MASK) == SVM_EVTINJ_TYPE_SOFT;
    bool is_exception = (event & SVM_EVTINJ_TYPE_MASK) == SVM_EVTINJ_TYPE_EXEPT;

    if (nsvm_fault(NSVM_FAULT_EXITINTINFO_SOFT_AS_EXCEPTION) && is_soft) {
        return (event & ~SVM_EVTINJ_TYPE_MASK) | SVM_EVTINJ_TYPE_EXEPT;
    }
    if (nsvm_fault(NSVM_FAULT_EXITINTINFO_INT3_AS_SOFT) && is_exception
        && (vector == EXCP03_INT3 || vector == EXCP04_INTO)) {
        return (event & ~SVM_EVTINJ_TYPE_MASK) | SVM_EVTINJ_TYPE_SOFT;
    }
    if (nsvm_fault(NSVM_FAULT_EXITINTINFO_MISSING_AT_NPF)
        && nsvm_vmcb_ldq(env, offsetof(struct vmcb, control.exit_code)) == SVM_EXIT_NPF) {
        return 0;
    }
    return without(NSVM_FAULT_EXITINTINFO_WITHOUT_EV, SVM_EVTINJ_VALID_ERR, event);
}

/* #VMEXIT is nearly complete: the host's state is loaded, GIF is clear. */
void nsvm_fault_left(CPUX86State *env)
{
    unsigned where = offsetof(struct vmcb, control.exit_int_info);
    uint32_t event;

    if (!nsvm_fault_active()) {
        return;
    }
    event = x86_ldl_phys(env_cpu(env), env->vm_vmcb + where);
    if (event & SVM_EVTINJ_VALID) {
        x86_stl_phys(env_cpu(env), env->vm_vmcb + where, changed_event(env, event));
        if (nsvm_fault(NSVM_FAULT_EXITINTINFO_WITHOUT_EV)) {
            x86_stl_phys(env_cpu(env), env->vm_vmcb + offsetof(struct vmcb, control.exit_int_info_err), 0);
        }
    }
    switch (nsvm_fault_chosen) {
    case NSVM_FAULT_GIF_SET_AFTER_INVALID:
        if (nsvm_vmcb_ldq(env, offsetof(struct vmcb, control.exit_code)) == SVM_EXIT_ERR) {
            env->hflags2 |= HF2_GIF_MASK;
        }
        break;
    case NSVM_FAULT_HOST_DR7_NOT_RESTORED:
        cpu_x86_update_dr7(env, nsvm_vmcb_ldq(env, offsetof(struct vmcb, save.dr7)));
        break;
    case NSVM_FAULT_HOST_DR6_RESTORED:
        env->dr[6] = x86_ldq_phys(env_cpu(env), env->vm_hsave + offsetof(struct vmcb, save.dr6));
        break;
    case NSVM_FAULT_TSC_OFFSET_OF_HOST_TOO:
        env->tsc_offset = nsvm_vmcb_ldq(env, offsetof(struct vmcb, control.tsc_offset));
        break;
    case NSVM_FAULT_TSC_RATIO_LOST_AT_EXIT:
        env->amd_tsc_scale_msr = 1ULL << 32;
        break;
    default:
        break;
    }
}

/* Rights that a nested walk finds although its tables do not give them. */
int nsvm_fault_nested_rights(CPUX86State *env, uint64_t cr3)
{
    if (!nsvm_fault_active() || !(env->hflags2 & HF2_NPT_MASK) || cr3 != env->nested_cr3) {
        return 0;
    }
    return (nsvm_fault(NSVM_FAULT_NP_WRITE_TO_READ_ONLY) ? PAGE_WRITE : 0)
           | (nsvm_fault(NSVM_FAULT_NP_EXEC_OF_NX) ? PAGE_EXEC : 0);
}

void nsvm_fault_vmsave(CPUX86State *env, hwaddr address, int mmu_index)
{
    if (nsvm_fault(NSVM_FAULT_VMSAVE_KERNEL_GS_OF_GS)) {
        cpu_stq_mmuidx_ra(env, address + offsetof(struct vmcb, save.kernel_gs_base), env->segs[R_GS].base, mmu_index,
                          0);
    }
}

/* nRIP. */

static bool is_prefix(CPUX86State *env, uint8_t byte)
{
    switch (byte) {
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64 ... 0x67: case 0xf0: case 0xf2: case 0xf3:
        return true;
    default:
        return (env->hflags & HF_CS64_MASK) && (byte & 0xf0) == 0x40;
    }
}

void nsvm_fault_nrip(CPUX86State *env, uint64_t exit_code, bool is_instruction, uint32_t *length)
{
    uint8_t bytes[NSVM_DECODE_BYTES];

    if (nsvm_fault(NSVM_FAULT_NRIP_WITHOUT_PREFIX) && is_instruction) {
        *length -= nsvm_decode_fetch(env, bytes) && is_prefix(env, bytes[0]);
    }
    if (nsvm_fault(NSVM_FAULT_NRIP_WITHOUT_IMMEDIATE) && exit_code == SVM_EXIT_SWINT) {
        *length -= 1;
    }
    if (nsvm_fault(NSVM_FAULT_NRIP_MSR_ALWAYS_2) && exit_code == SVM_EXIT_MSR) {
        *length = 2;
    }
}

static bool nrip_is_missing(uint64_t exit_code)
{
    switch (nsvm_fault_chosen) {
    case NSVM_FAULT_NRIP_MISSING_FOR_IO:
        return exit_code == SVM_EXIT_IOIO;
    case NSVM_FAULT_NRIP_MISSING_FOR_CR:
        return exit_code < SVM_EXIT_READ_DR0;
    case NSVM_FAULT_NRIP_MISSING_FOR_INT3:
        return exit_code == SVM_EXIT_EXCP_BASE + EXCP03_INT3 || exit_code == SVM_EXIT_EXCP_BASE + EXCP04_INTO;
    default:
        return false;
    }
}

void nsvm_fault_nrip_saved(CPUX86State *env, uint64_t exit_code, bool is_instruction)
{
    uint64_t nrip;

    if (!nsvm_fault_active()) {
        return;
    }
    nrip = nsvm_vmcb_ldq(env, NSVM_VMCB_NRIP);
    if (nrip_is_missing(exit_code)) {
        nrip = 0;
    } else if (nsvm_fault(NSVM_FAULT_NRIP_OF_FAULTS)
               && (exit_code == SVM_EXIT_EXCP_BASE + EXCP0E_PAGE || exit_code == SVM_EXIT_NPF)) {
        nrip = env->eip;
    } else if (nsvm_fault(NSVM_FAULT_NRIP_LINEAR) && is_instruction) {
        nrip += env->segs[R_CS].base;
    } else if (nsvm_fault(NSVM_FAULT_NRIP_32_BIT)) {
        nrip = (uint32_t)nrip;
    }
    nsvm_vmcb_stq(env, NSVM_VMCB_NRIP, nrip);
}

bool nsvm_fault_nrip_stays(uint64_t exit_code, bool is_instruction)
{
    return nsvm_fault(NSVM_FAULT_NRIP_STALE) && !is_instruction;
}

bool nsvm_fault_inject_at_rip(CPUX86State *env)
{
    return env->exception_is_int == NSVM_IS_SOFT_EXCEPTION ? nsvm_fault(NSVM_FAULT_NRIP_NOT_INJECTED_INT3)
                                                           : nsvm_fault(NSVM_FAULT_NRIP_NOT_INJECTED);
}

/* Decode assists. `field`: the count, then the bytes. */
void nsvm_fault_decode_bytes(uint8_t field[])
{
    if (nsvm_fault(NSVM_FAULT_DECODE_COUNT_ALWAYS_15)) {
        memset(&field[1 + field[0]], 0, NSVM_DECODE_BYTES - field[0]);
        field[0] = NSVM_DECODE_BYTES;
    }
    if (nsvm_fault(NSVM_FAULT_DECODE_BYTES_STALE)) {
        memset(&field[1], 0, field[0]);
    }
    if (nsvm_fault(NSVM_FAULT_DECODE_BYTES_SKIP_PREFIX) && field[0]
        && ((field[1] & 0xf0) == 0x40 || field[1] == 0x66 || field[1] == 0x67 || field[1] == 0xf0)) {
        memmove(&field[1], &field[2], --field[0]);
    }
}

bool nsvm_fault_decode_has_none(uint64_t exit_code, uint64_t error_code)
{
    return (nsvm_fault(NSVM_FAULT_DECODE_NO_BYTES_FOR_PF) && exit_code != SVM_EXIT_NPF)
           || (nsvm_fault(NSVM_FAULT_DECODE_NO_BYTES_FOR_WRITES) && exit_code == SVM_EXIT_NPF
               && (error_code & PG_ERROR_W_MASK));
}

uint32_t nsvm_fault_decode_insn(uint64_t exit_code, uint32_t insn)
{
    bool is_cr = exit_code < SVM_EXIT_READ_DR0;

    if (nsvm_fault(NSVM_FAULT_DECODE_GPR_WITHOUT_REX)) {
        return insn & ~NSVM_INSN_OF_GPR(8);
    }
    if (nsvm_fault(NSVM_FAULT_DECODE_BIT_63_MISSING) && is_cr) {
        return insn & ~NSVM_INSN_MOV_CR_DR;
    }
    if (nsvm_fault(NSVM_FAULT_DECODE_BIT_63_OF_LMSW) && is_cr) {
        return insn | NSVM_INSN_MOV_CR_DR;
    }
    return insn;
}

/* Branch records. */
bool nsvm_fault_lbr_keeps_debugctl(bool of_guest)
{
    return nsvm_fault(of_guest ? NSVM_FAULT_LBR_DEBUGCTL_NOT_LOADED : NSVM_FAULT_LBR_DEBUGCTL_NOT_RESTORED);
}

bool nsvm_fault_lbr_control(uint64_t control)
{
    uint64_t enable = nsvm_fault(NSVM_FAULT_LBR_ENABLE_OF_BIT_1) ? 2 : 1;

    return nsvm_fault(NSVM_FAULT_LBR_WITHOUT_ENABLE) || (control & enable);
}

/* Clean bits. */
uint64_t nsvm_fault_clean_key(uint64_t key)
{
    return nsvm_fault(NSVM_FAULT_CLEAN_OF_LAST_VMCB) ? 1 : key;
}

uint32_t nsvm_fault_clean_bits(uint32_t keep)
{
    return nsvm_fault(NSVM_FAULT_CLEAN_ANY_MEANS_ALL) && keep ? ~0u : keep;
}

/* Whether the group at `offset` is taken for clean although its bit is 0. */
bool nsvm_fault_clean_trusts(unsigned offset, uint32_t keep)
{
    const NsvmFaultRule *now = rule();
    bool is_its_group = now->kind == NSVM_FAULT_TRUSTS
                        && (offset == now->offset
                            || (now->offset == 0x464 && offset >= 0x464 && offset < 0x490)  /* GDTR and IDTR */
                            || (now->offset == 0x048 && offset == 0x040));                  /* both maps */

    return is_its_group && (now->bit == ALWAYS || (keep >> now->bit & 1));
}

/* ASIDs. */
uint8_t nsvm_fault_tlb_control(uint8_t control)
{
    bool ignored = (nsvm_fault(NSVM_FAULT_ASID_CONTROL_3_IGNORED) && control == 3)
                   || (nsvm_fault(NSVM_FAULT_ASID_CONTROL_7_IGNORED) && control == 7);

    return ignored ? 0 : control;
}

uint32_t nsvm_fault_invlpga_asid(CPUX86State *env, uint32_t asid)
{
    if (nsvm_fault(NSVM_FAULT_ASID_INVLPGA_OF_HOST)) {
        return 0;
    }
    return nsvm_fault(NSVM_FAULT_ASID_INVLPGA_IGNORED) ? env->nsvm.asid.owner + 1 : asid;
}

/* The time-stamp counter. */
uint64_t nsvm_fault_tsc_ratio(uint64_t ratio)
{
    if (nsvm_fault(NSVM_FAULT_TSC_RATIO_8_31)) {
        return ratio << 1;
    }
    return nsvm_fault(NSVM_FAULT_TSC_RATIO_WHOLE_ONLY) ? ratio >> 32 << 32 : ratio;
}

uint64_t nsvm_fault_tsc(CPUX86State *env, uint64_t counter, uint64_t scaled)
{
    uint64_t offset = env->tsc_offset;

    if (!nsvm_in_guest(env)) {
        return nsvm_fault(NSVM_FAULT_TSC_RATIO_OF_HOST_TOO)   ? scaled
               : nsvm_fault(NSVM_FAULT_TSC_OFFSET_OF_HOST_TOO) ? counter + offset
                                                               : counter;
    }
    switch (nsvm_fault_chosen) {
    case NSVM_FAULT_TSC_OFFSET_NEGATIVE:
        return scaled - offset;
    case NSVM_FAULT_TSC_OFFSET_SCALED:
        return scaled + (uint64_t)(((__int128)(int64_t)offset * env->amd_tsc_scale_msr) >> 32);
    case NSVM_FAULT_TSC_OFFSET_IGNORED:
        return scaled;
    case NSVM_FAULT_TSC_RATIO_IGNORED:
        return counter + offset;
    case NSVM_FAULT_TSC_RDTSCP_UNSCALED:
        return (env->nsvm.fault.rdtscp ? counter : scaled) + offset;
    default:
        return scaled + offset;
    }
}

/* SVM_KEY. */
bool nsvm_fault_svm_key_fits(uint64_t value, bool fits, uint64_t key)
{
    switch (nsvm_fault_chosen) {
    case NSVM_FAULT_SVM_KEY_WRONG_UNLOCKS:
        return value != 0;
    case NSVM_FAULT_SVM_KEY_RIGHT_IGNORED:
        return false;
    case NSVM_FAULT_SVM_KEY_0_UNLOCKS:
        return value == key;
    default:
        return fits;
    }
}

/* Permission maps. */
uint16_t nsvm_fault_io_bits(uint16_t map)
{
    return nsvm_fault(NSVM_FAULT_IO_LAST_BYTE_MISSING) ? map & 0xff : map;
}

uint32_t nsvm_fault_io_size(uint32_t bits)
{
    return nsvm_fault(NSVM_FAULT_IO_FIRST_BIT_ONLY) ? 1 : bits;
}

uint32_t nsvm_fault_io_info(uint32_t info)
{
    if (nsvm_fault(NSVM_FAULT_IO_SIZE_MISSING)) {
        return (info & ~SVM_IOIO_SIZE_MASK) | 1 << SVM_IOIO_SIZE_SHIFT;
    }
    info = without(NSVM_FAULT_IO_ADDRESS_SIZE_MISSING, 7 << SVM_IOIO_ASIZE_SHIFT, info);
    info = without(NSVM_FAULT_IO_REP_MISSING, SVM_IOIO_REP_MASK, info);
    return without(NSVM_FAULT_IO_SEGMENT_MISSING, 7 << NSVM_IOIO_SEG_SHIFT, info);
}

/* Which MSR's bits are looked up. */
uint32_t nsvm_fault_msr(uint32_t msr)
{
    uint32_t range = msr & ~0x1fff;

    if (nsvm_fault(NSVM_FAULT_MSRPM_RANGE_3_AS_2) && range == 0xc0010000) {
        return msr ^ 0x10000;
    }
    return msr;
}
