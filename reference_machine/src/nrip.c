/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * NRIPS: the address of the next sequential instruction at VMCB 0C8h (APM2 15.7.1), and its use by EVENTINJ (15.20).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

/* The intercepts of instructions: table 15-7, and #BP, #OF, #BR, which only INT3, INTO and BOUND raise. */
static bool is_instruction(uint64_t exit_code)
{
    switch (exit_code) {
    case 0x000 ... 0x03f: /* CR and DR accesses */
    case 0x043 ... 0x045: /* INT3, INTO, BOUND */
    case 0x065 ... 0x07c: /* CR0_SEL_WRITE to MSR */
    case 0x080 ... 0x08e: /* VMRUN to RDPRU */
    case 0x0a0 ... 0x0a4: /* INVLPGB to TLBSYNC */
    case 0x0a6:           /* IDLE_HLT */
        return true;
    default:
        return false;
    }
}

/*
 * At an exit, with RIP at the intercepted instruction. The sum is that of a trap's RIP: no CS base, and no cut at
 * 64K or 4G. After VMEXIT_INVALID no instruction has run and the manual says nothing: the field stays.
 */
void nsvm_nrip_save(CPUX86State *env, uint64_t exit_code, uintptr_t retaddr)
{
    uint32_t length = retaddr ? NSVM_INSN_LENGTH(env->nsvm.core.insn) : env->nsvm.nrip.length;

    nsvm_nrip_note_length(env, 0);
    if (!nsvm_has(env, CPUID_SVM_NRIPSAVE) || exit_code == SVM_EXIT_ERR
        || nsvm_fault_nrip_stays(exit_code, is_instruction(exit_code))) {
        return;
    }
    nsvm_fault_nrip(env, exit_code, is_instruction(exit_code), &length);
    nsvm_vmcb_stq(env, NSVM_VMCB_NRIP, is_instruction(exit_code) ? env->eip + length : 0);
    nsvm_fault_nrip_saved(env, exit_code, is_instruction(exit_code));
}

/* The return address of an injected software interrupt, INT3 or INTO. RIP stays, for an exit during delivery. */
void nsvm_nrip_inject(CPUX86State *env)
{
    if (nsvm_has(env, CPUID_SVM_NRIPSAVE) && !nsvm_fault_inject_at_rip(env)) {
        env->exception_next_eip = nsvm_vmcb_ldq(env, NSVM_VMCB_NRIP);
    }
}
