/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_CHECKS_H
#define NSVM_CHECKS_H

#ifndef CONFIG_USER_ONLY
void nsvm_check_hsave(CPUX86State *env, uintptr_t retaddr);
bool nsvm_check_vmcb(CPUX86State *env);
bool nsvm_check_was_refused(CPUX86State *env);
bool nsvm_pdpes_are_illegal(CPUX86State *env, uint64_t cr3);
#endif

uint64_t nsvm_efer_allowed(CPUX86State *env);
uint64_t nsvm_cr4_reserved(CPUX86State *env);

static inline bool nsvm_np_offered(CPUX86State *env)
{
    return !nsvm_on(env) || (env->features[FEAT_SVM] & CPUID_SVM_NPT);
}

/* Bits that no physical address has. */
static inline uint64_t nsvm_beyond_maxphyaddr(CPUX86State *env)
{
    return ~0ULL << env_archcpu(env)->phys_bits;
}

#endif
