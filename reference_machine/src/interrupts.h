/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_INTERRUPTS_H
#define NSVM_INTERRUPTS_H

/* The security exception, of an INIT that VM_CR.R_INIT redirects (15.28). */
#define NSVM_EXCP_SX 30

#ifndef CONFIG_USER_ONLY
void nsvm_virq_update(CPUX86State *env);
void nsvm_virq_dispatch(CPUX86State *env, int *vector);
void nsvm_smm_enter(CPUX86State *env);
void nsvm_smm_leave(CPUX86State *env);

/* EXITINFO1 of the SMI intercept: QEMU's SMIs are external ones. */
static inline uint64_t nsvm_smi_info(CPUX86State *env)
{
    return nsvm_on(env);
}

/* Under V_INTR_MASKING: whether the interrupt shadow holds an interrupt that is not intercepted. */
static inline bool nsvm_shadow_holds(CPUX86State *env)
{
    return nsvm_on(env) && (env->hflags & HF_INHIBIT_IRQ_MASK) && !(env->intercept & 1);
}

static inline bool nsvm_init_wakes(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    return (cs->interrupt_request & CPU_INTERRUPT_INIT) && nsvm_on(env) && (env->hflags2 & HF2_GIF_MASK);
}
#endif

#endif
