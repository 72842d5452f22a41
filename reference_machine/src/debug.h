/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_DEBUG_H
#define NSVM_DEBUG_H

#ifndef CONFIG_USER_ONLY
static inline void nsvm_debug_raised(CPUX86State *env, int vector)
{
    if (vector == EXCP01_DB && nsvm_on(env)) {
        env->dr[7] &= ~(target_ulong)DR7_GD;
    }
}

/* With GIF=0 a match of a breakpoint register is lost; the single-step trap is not (15.17). */
static inline bool nsvm_debug_is_discarded(CPUX86State *env)
{
    return nsvm_on(env) && !(env->hflags2 & HF2_GIF_MASK);
}

/* HLT has ended with RFLAGS.TF set. Nothing can exit from here: the #DB is raised in the main loop. */
static inline void nsvm_debug_trap_after_halt(CPUX86State *env)
{
    env->error_code = 0;
    env->exception_is_int = 0;
    env->exception_next_eip = env->eip;
    env->nsvm.debug.halt_trap = true;
    env_cpu(env)->exception_index = EXCP01_DB;
}

static inline void nsvm_debug_ask_after_halt(CPUX86State *env)
{
    if (env->nsvm.debug.halt_trap) {
        env->nsvm.debug.halt_trap = false;
        nsvm_debug_raised(env, EXCP01_DB);
        cpu_svm_check_intercept_param(env, SVM_EXIT_EXCP_BASE + EXCP01_DB, 0, 0);
    }
}
#endif

#endif
