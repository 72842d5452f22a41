/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_SOFTINT_H
#define NSVM_SOFTINT_H

/* In a vector: it is INT3 or INTO, not INT 3 or INT 4. */
#define NSVM_SOFT_EXCEPTION 0x100

/* In is_int: delivered as a software interrupt is (DPL check, next RIP), yet an exception to EXITINTINFO. */
#define NSVM_IS_SOFT_EXCEPTION 2

uint32_t nsvm_softint_exit_code(CPUX86State *env, int *intno, int *is_int, int length);
void nsvm_softint_inject(CPUX86State *env, int vector);

#endif
