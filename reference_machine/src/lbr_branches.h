/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which instructions are branches (APM2 13.1.6). INTn, INT3 and INTO are recorded where interrupts are delivered; VMRUN
 * and what exits are none. Included by decode-new.c.inc.
 */
#ifndef NSVM_LBR_BRANCHES_H
#define NSVM_LBR_BRANCHES_H

static bool nsvm_lbr_is_branch(X86GenFunc generate)
{
    static const X86GenFunc branches[] = {
        gen_CALL, gen_CALL_m, gen_CALLF, gen_CALLF_m, gen_JMP, gen_JMP_m, gen_JMPF, gen_JMPF_m, gen_RET, gen_RETF,
        gen_Jcc, gen_JCXZ, gen_LOOP, gen_LOOPE, gen_LOOPNE,
        gen_IRET, gen_RSM, gen_SYSCALL, gen_SYSRET, gen_SYSENTER, gen_SYSEXIT,
    };

    for (int i = 0; i < ARRAY_SIZE(branches); i++) {
        if (generate == branches[i]) {
            return true;
        }
    }
    return false;
}

#endif
