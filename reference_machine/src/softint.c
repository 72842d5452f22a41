/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * INT3 and INTO: exceptions 3 and 4 to the intercepts (15.12.4, 15.12.5), software interrupts to the IDT gate's DPL.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

/*
 * The exit code to ask about when an instruction raises an interrupt, and its length for nRIP.
 * Takes the translator's mark out of the vector.
 */
uint32_t nsvm_softint_exit_code(CPUX86State *env, int *intno, int *is_int, int length)
{
    bool exception = *is_int && (*intno & NSVM_SOFT_EXCEPTION);

    if (!*is_int) {
        return 0;
    }
    *intno &= 0xff;
    nsvm_nrip_note_length(env, length);
    if (!exception || !nsvm_on(env)) {
        return SVM_EXIT_SWINT;
    }
    *is_int = NSVM_IS_SOFT_EXCEPTION;
    return SVM_EXIT_EXCP_BASE + *intno;
}

/* EVENTINJ with TYPE 3 and vector 3 or 4 is an INT3 or INTO: the gate's DPL is checked (15.20). */
void nsvm_softint_inject(CPUX86State *env, int vector)
{
    if (nsvm_on(env) && (vector == EXCP03_INT3 || vector == EXCP04_INTO)) {
        env->exception_is_int = NSVM_IS_SOFT_EXCEPTION;
        env->exception_next_eip = env->eip;
    }
}
