/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_INTERCEPTS_H
#define NSVM_INTERCEPTS_H

/* In the number of a control register: LMSW writes it. */
#define NSVM_LMSW 0x100

/* In NSVM_INSN words: RDTSCP. */
#define NSVM_INSN_RDTSCP (1u << 29)

#ifndef CONFIG_USER_ONLY
void nsvm_check_mov_to_cr(CPUX86State *env, int reg, uint64_t value, bool is_lmsw, uintptr_t retaddr);
uint32_t nsvm_rdtsc_exit_code(CPUX86State *env, uintptr_t retaddr);
void nsvm_ferr_intercept(CPUX86State *env, uintptr_t retaddr);
#endif

/* What DR6 or DR7 reads as when `value` is written. */
static inline uint64_t nsvm_dr_value(int reg, uint64_t value)
{
    return reg == 6 ? (value & 0xe00f) | DR6_FIXED_1 : (value & 0xffff23ff) | DR7_FIXED_1;
}

#endif
