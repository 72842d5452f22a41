/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_ALIGN_H
#define NSVM_ALIGN_H

/* In NSVM_INSN words: the instruction has an access whose alignment is checked. */
#define NSVM_INSN_ALIGN (1u << 28)

#ifndef CONFIG_USER_ONLY
void nsvm_align_fault(CPUX86State *env, uintptr_t retaddr);
#else
static inline void nsvm_align_fault(CPUX86State *env, uintptr_t retaddr)
{
}
#endif

#endif
