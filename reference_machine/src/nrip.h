/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_NRIP_H
#define NSVM_NRIP_H

void nsvm_nrip_save(CPUX86State *env, uint64_t exit_code, uintptr_t retaddr);
void nsvm_nrip_inject(CPUX86State *env);

/* INTn, INT3 and INTO ask their intercept without an address to unwind from: they say their length themselves. */
static inline void nsvm_nrip_note_length(CPUX86State *env, int length)
{
    env->nsvm.nrip.length = length;
}

#endif
