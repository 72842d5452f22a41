/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * #AC. Accesses that the translator makes itself are checked; those of SSE operands that must be aligned are #GP as
 * ever, and those that helpers make (x87 environments, far pointers) are not checked.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

void nsvm_align_fault(CPUX86State *env, uintptr_t retaddr)
{
    if (nsvm_on(env) && (nsvm_insn_at(env, retaddr) & NSVM_INSN_ALIGN)) {
        raise_exception_err_ra(env, EXCP11_ALGN, 0, retaddr);
    }
}
