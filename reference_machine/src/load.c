/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VMRUN's and #VMEXIT's state, where QEMU's own code is not what APM2 15.5.1, 15.6 and 15.25.4 say.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "system/runstate.h"
#include "tcg/helper-tcg.h"

#define RFLAGS_DEFINED 0x3f7fd5
#define DR6_WRITABLE 0xe00f
#define DR7_WRITABLE 0xffff23ff

/* So that cpu_x86_update_cr0() neither enters nor leaves long mode: EFER is loaded after it. */
void nsvm_load_leave_long_mode(CPUX86State *env)
{
    if (nsvm_on(env)) {
        env->efer &= ~(uint64_t)(MSR_EFER_LME | MSR_EFER_LMA);
    }
}

void nsvm_load_efer(CPUX86State *env)
{
    uint64_t efer = env->efer & ~(uint64_t)MSR_EFER_LMA;

    if (nsvm_on(env)) {
        cpu_load_efer(env, efer | ((efer & MSR_EFER_LME) && (env->cr[0] & CR0_PG_MASK) ? MSR_EFER_LMA : 0));
    }
}

/* The guest's CPL: of the VMCB, but 0 in real mode and 3 in virtual-8086 mode. SS keeps its DPL. */
static int guest_cpl(CPUX86State *env)
{
    if (!(env->cr[0] & CR0_PE_MASK)) {
        return 0;
    }
    if (env->eflags & VM_MASK) {
        return 3;
    }
    if (nsvm_fault(NSVM_FAULT_GUEST_CPL_OF_CS)) {
        return env->segs[R_CS].selector & 3;
    }
    return nsvm_vmcb_ldub(env, offsetof(struct vmcb, save.cpl)) & 3;
}

/* After RFLAGS and the segments are loaded. */
void nsvm_load_guest(CPUX86State *env)
{
    static const int with_short_base[] = { R_ES, R_CS, R_SS, R_DS };

    if (!nsvm_on(env)) {
        return;
    }
    env->eflags = (env->eflags & RFLAGS_DEFINED) | 2;
    if (env->hflags & HF_LMA_MASK) {
        env->eflags &= ~VM_MASK; /* there is no virtual-8086 mode */
    }
    env->hflags = (env->hflags & ~HF_CPL_MASK) | guest_cpl(env);
    cpu_sync_bndcs_hflags(env);
    env->gdt.limit &= 0xffff;
    env->idt.limit &= 0xffff;
    for (int i = 0; i < ARRAY_SIZE(with_short_base); i++) {
        env->segs[with_short_base[i]].base &= 0xffffffff;
    }
    nsvm_segments_update(env);
    env->nsvm.load.guest_has_pat = env->hflags2 & HF2_NPT_MASK;
    if (env->nsvm.load.guest_has_pat) {
        env->nsvm.load.host_pat = env->pat;
    }
    if (env->nsvm.load.guest_has_pat && !nsvm_fault(NSVM_FAULT_NP_GPAT_NOT_LOADED)) {
        env->pat = nsvm_vmcb_ldq(env, offsetof(struct vmcb, save.g_pat));
    }
}

void nsvm_load_fix_dr(CPUX86State *env, uint64_t *dr6, uint64_t *dr7)
{
    if (nsvm_on(env)) {
        *dr6 = (*dr6 & DR6_WRITABLE) | DR6_FIXED_1;
        *dr7 = (*dr7 & DR7_WRITABLE) | DR7_FIXED_1;
    }
}

/* In 64-bit mode the fetch itself finds a RIP that is not canonical. An injected event is delivered first. */
void nsvm_load_check_rip(CPUX86State *env)
{
    if (nsvm_on(env) && !(env->hflags & HF_CS64_MASK) && env->eip > env->segs[R_CS].limit
        && !(nsvm_vmcb_ldl(env, offsetof(struct vmcb, control.event_inj)) & SVM_EVTINJ_VALID)) {
        raise_exception_err(env, EXCP0D_GPF, 0);
    }
}

/* The guest ends without an exit. */
void nsvm_load_drop_guest(CPUX86State *env)
{
    if (env->nsvm.load.guest_has_pat) {
        env->pat = nsvm_fault(NSVM_FAULT_NP_HOST_PAT_NOT_RESTORED) ? env->pat : env->nsvm.load.host_pat;
        env->nsvm.load.guest_has_pat = false;
    }
}

void nsvm_load_save_guest(CPUX86State *env)
{
    if (env->nsvm.load.guest_has_pat) {
        nsvm_vmcb_stq(env, offsetof(struct vmcb, save.g_pat), env->pat);
        nsvm_load_drop_guest(env);
    }
}

/* After #VMEXIT has reloaded the host's state. */
void nsvm_load_check_host(CPUX86State *env)
{
    bool legacy_pae = (env->cr[0] & CR0_PG_MASK) && (env->cr[4] & CR4_PAE_MASK) && !(env->efer & MSR_EFER_LMA);

    if (nsvm_on(env) && legacy_pae && nsvm_pdpes_are_illegal(env, env->cr[3])) {
        qemu_system_reset_request(SHUTDOWN_CAUSE_GUEST_RESET);
    }
}
