/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_TSC_H
#define NSVM_TSC_H

uint64_t nsvm_tsc_read(CPUX86State *env);

#ifndef CONFIG_USER_ONLY
bool nsvm_tsc_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value, uintptr_t retaddr);
bool nsvm_tsc_rdmsr(CPUX86State *env, uint32_t msr, uintptr_t retaddr);
bool nsvm_tsc_check_config(CPUX86State *env, Error **errp);
#endif

#endif
