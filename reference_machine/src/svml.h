/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_SVML_H
#define NSVM_SVML_H

#define NSVM_VM_CR_R_INIT (1 << 1)
#define NSVM_VM_CR_LOCK (1 << 3)
#define NSVM_VM_CR_SVMDIS (1 << 4)

/* Fn8000_0008 EBX: EFER.LMSLE is not supported. */
#define NSVM_CPUID_NO_LMSLE (1 << 20)

#ifndef CONFIG_USER_ONLY
bool nsvm_svml_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value, uintptr_t retaddr);
bool nsvm_svml_rdmsr(CPUX86State *env, uint32_t msr, uintptr_t retaddr);
#endif

/* INIT keeps LOCK, and SVMDIS with it (15.30.1). */
static inline void nsvm_svml_init(CPUX86State *env)
{
    if (!(env->nsvm.svml.vm_cr & NSVM_VM_CR_LOCK)) {
        env->nsvm.svml.vm_cr &= ~(uint64_t)NSVM_VM_CR_SVMDIS;
    }
}

static inline bool nsvm_init_is_redirected(CPUX86State *env)
{
    return nsvm_on(env) && (env->nsvm.svml.vm_cr & NSVM_VM_CR_R_INIT);
}

#endif
