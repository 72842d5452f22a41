/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last-branch record and the single-step on branches (APM2 13.1.1, 13.1.6), and LbrVirt (15.23).
 *
 * Addresses are segment offsets: rIP of the branch, or of the interrupted instruction, and of the first instruction
 * at the target. While neither DEBUGCTL.LBR nor BTF is set no code for it is translated: a bit of hflags says so.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"

#define MSR_DEBUGCTL 0x1d9
#define MSR_LAST_BRANCH_FROM 0x1db
#define MSR_LAST_BRANCH_TO 0x1dc
#define MSR_LAST_INT_FROM 0x1dd
#define MSR_LAST_INT_TO 0x1de

#define VMCB_LBR_CONTROL 0x0b8 /* bit 0: VMRUN and #VMEXIT swap the five MSRs */
#define VMCB_DEBUGCTL 0x670
#define VMCB_LAST_BRANCH_FROM 0x678
#define VMCB_LAST_BRANCH_TO 0x680
#define VMCB_LAST_INT_FROM 0x688
#define VMCB_LAST_INT_TO 0x690

/* DEBUGCTL has changed, or hflags was made new: tells the translator whether branches matter. */
void nsvm_lbr_update(CPUX86State *env)
{
    env->hflags &= ~NSVM_HF_BRANCHES;
    if (env->nsvm.lbr.debugctl & (NSVM_DEBUGCTL_LBR | NSVM_DEBUGCTL_BTF)) {
        env->hflags |= NSVM_HF_BRANCHES;
    }
}

static void set_debugctl(CPUX86State *env, uint64_t value)
{
    env->nsvm.lbr.debugctl = value & env->nsvm_config.lbr.writable;
    nsvm_lbr_update(env);
}

/* A taken branch. */
void nsvm_lbr_branch(CPUX86State *env, target_ulong from, target_ulong to)
{
    if ((env->nsvm.lbr.debugctl & NSVM_DEBUGCTL_LBR)
        && !(nsvm_fault(NSVM_FAULT_LBR_NONE_IN_GUEST) && nsvm_in_guest(env))) {
        if (nsvm_fault(NSVM_FAULT_LBR_LINEAR)) {
            from += env->segs[R_CS].base;
            to += env->segs[R_CS].base;
        }
        env->nsvm.lbr.branch_from = from;
        env->nsvm.lbr.branch_to = to;
    }
}

/* The end of a branch instruction that was translated while branches matter; RIP is the target's. */
void helper_nsvm_lbr_branch(CPUX86State *env)
{
    nsvm_lbr_branch(env, env->nsvm.lbr.from, env->eip);
}

/*
 * An interrupt or exception has been delivered; RIP is its handler's. `is_int`: raised by INTn, INT3 or INTO, which
 * are branches too; the manual does not say whether they set LastInt. `is_hw`: an external interrupt or NMI.
 */
void nsvm_lbr_event(CPUX86State *env, target_ulong from, int vector, int is_int, int is_hw)
{
    if (!is_int && !is_hw && vector == EXCP01_DB) {
        uint64_t cleared = nsvm_fault(NSVM_FAULT_LBR_DB_KEEPS_LBR)   ? NSVM_DEBUGCTL_BTF
                           : nsvm_fault(NSVM_FAULT_LBR_DB_KEEPS_BTF) ? NSVM_DEBUGCTL_LBR
                                                                     : NSVM_DEBUGCTL_LBR | NSVM_DEBUGCTL_BTF;

        set_debugctl(env, env->nsvm.lbr.debugctl & ~cleared);
        return;
    }
    if (!(env->nsvm.lbr.debugctl & NSVM_DEBUGCTL_LBR) || (!is_int && !is_hw && vector == EXCP12_MCHK)
        || (nsvm_fault(NSVM_FAULT_LBR_NO_EXCEPTIONS) && !is_int && !is_hw)) {
        return;
    }
    if (nsvm_fault(NSVM_FAULT_LBR_INT_TAKES_NEW)) {
        nsvm_lbr_branch(env, from, env->eip);
    }
    if (!is_int || env->nsvm_config.lbr.softint_sets_last_int) {
        env->nsvm.lbr.int_from = env->nsvm.lbr.branch_from;
        env->nsvm.lbr.int_to = env->nsvm.lbr.branch_to;
    }
    nsvm_lbr_branch(env, from, env->eip);
}

/* TF is set and an instruction has ended. With BTF only a taken branch traps. */
void helper_nsvm_lbr_step(CPUX86State *env, uint32_t is_branch)
{
    if (is_branch || !nsvm_lbr_btf(env)) {
        helper_single_step(env);
    }
}

static uint64_t *address_msr(CPUX86State *env, uint32_t number)
{
    switch (number) {
    case MSR_LAST_BRANCH_FROM:
        return &env->nsvm.lbr.branch_from;
    case MSR_LAST_BRANCH_TO:
        return &env->nsvm.lbr.branch_to;
    case MSR_LAST_INT_FROM:
        return &env->nsvm.lbr.int_from;
    case MSR_LAST_INT_TO:
        return &env->nsvm.lbr.int_to;
    default:
        return NULL;
    }
}

/* WRMSR; false if the MSR is none of ours. Raises #GP. */
bool nsvm_lbr_wrmsr(CPUX86State *env, uint32_t number, uint64_t value, uintptr_t retaddr)
{
    uint64_t *address = address_msr(env, number);

    if (!nsvm_on(env) || (!address && number != MSR_DEBUGCTL)) {
        return false;
    }
    if (address ? !env->nsvm_config.lbr.addresses_writable : value & env->nsvm_config.lbr.mbz) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
    }
    if (address) {
        *address = value;
    } else {
        set_debugctl(env, value);
    }
    return true;
}

/* RDMSR; false if the MSR is none of ours. */
bool nsvm_lbr_rdmsr(CPUX86State *env, uint32_t number)
{
    uint64_t *address = address_msr(env, number);
    uint64_t value;

    if (!nsvm_on(env) || (!address && number != MSR_DEBUGCTL)) {
        return false;
    }
    value = address ? *address : env->nsvm.lbr.debugctl;
    env->regs[R_EAX] = (uint32_t)value;
    env->regs[R_EDX] = value >> 32;
    return true;
}

static void load(CPUX86State *env, hwaddr page)
{
    CPUState *cs = env_cpu(env);

    if (!nsvm_fault_lbr_keeps_debugctl(page == env->vm_vmcb)) {
        set_debugctl(env, x86_ldq_phys(cs, page + VMCB_DEBUGCTL));
    }
    env->nsvm.lbr.branch_from = x86_ldq_phys(cs, page + VMCB_LAST_BRANCH_FROM);
    env->nsvm.lbr.branch_to = x86_ldq_phys(cs, page + VMCB_LAST_BRANCH_TO);
    env->nsvm.lbr.int_from = x86_ldq_phys(cs, page + VMCB_LAST_INT_FROM);
    env->nsvm.lbr.int_to = x86_ldq_phys(cs, page + VMCB_LAST_INT_TO);
}

static void save(CPUX86State *env, hwaddr page)
{
    CPUState *cs = env_cpu(env);

    x86_stq_phys(cs, page + VMCB_DEBUGCTL, env->nsvm.lbr.debugctl);
    if (nsvm_fault(NSVM_FAULT_LBR_FROM_TO_EXCHANGED) && page == env->vm_vmcb) {
        x86_stq_phys(cs, page + VMCB_LAST_BRANCH_FROM, env->nsvm.lbr.branch_to);
        x86_stq_phys(cs, page + VMCB_LAST_BRANCH_TO, env->nsvm.lbr.branch_from);
    } else {
        x86_stq_phys(cs, page + VMCB_LAST_BRANCH_FROM, env->nsvm.lbr.branch_from);
        x86_stq_phys(cs, page + VMCB_LAST_BRANCH_TO, env->nsvm.lbr.branch_to);
    }
    x86_stq_phys(cs, page + VMCB_LAST_INT_FROM, env->nsvm.lbr.int_from);
    x86_stq_phys(cs, page + VMCB_LAST_INT_TO, env->nsvm.lbr.int_to);
}

/* VMRUN, after all its checks. */
void nsvm_lbr_vmrun(CPUX86State *env)
{
    env->nsvm.lbr.swapped = nsvm_has(env, CPUID_SVM_LBRV)
                            && nsvm_fault_lbr_control(nsvm_vmcb_ldq(env, VMCB_LBR_CONTROL));
    if (env->nsvm.lbr.swapped) {
        save(env, env->vm_hsave);
        load(env, env->vm_vmcb);
    }
}

/* #VMEXIT. Without a swap at VMRUN there is none here: DEBUGCTL stays as the guest left it. */
void nsvm_lbr_vmexit(CPUX86State *env)
{
    if (env->nsvm.lbr.swapped) {
        save(env, env->vm_vmcb);
        if (!nsvm_fault(NSVM_FAULT_LBR_HOST_NOT_RESTORED)) {
            load(env, env->vm_hsave);
        }
        env->nsvm.lbr.swapped = false;
    }
}
