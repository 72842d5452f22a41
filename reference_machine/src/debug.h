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
#endif

#endif
