/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SIMD floating-point exceptions. While MXCSR masks all of them no code is translated for this; otherwise each
 * instruction with a vector register is watched: when it has raised something unmasked, its result is taken back.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "fpu/softfloat.h"
#include "tcg/helper-tcg.h"

#define VECTOR_XF 19
#define MXCSR_FLAGS 0x3f
#define MXCSR_MASK_SHIFT 7

void nsvm_simd_update(CPUX86State *env)
{
    bool all_masked = (env->mxcsr >> MXCSR_MASK_SHIFT & MXCSR_FLAGS) == MXCSR_FLAGS;
    CPUState *cs = env_cpu(env);

    if (all_masked || !nsvm_on(env)) {
        cs->tcg_cflags &= ~NSVM_CF_SIMD;
    } else {
        cs->tcg_cflags |= NSVM_CF_SIMD;
    }
}

void helper_nsvm_simd_begin(CPUX86State *env, uint32_t offset)
{
    env->nsvm.simd.offset = offset;
    if (offset) {
        memcpy(env->nsvm.simd.destination, (char *)env + offset, sizeof(env->nsvm.simd.destination));
    }
    env->nsvm.simd.cc[0] = env->cc_dst;
    env->nsvm.simd.cc[1] = env->cc_src;
    env->nsvm.simd.cc[2] = env->cc_src2;
    update_mxcsr_from_sse_status(env);
    set_float_exception_flags(0, &env->sse_status);
}

void helper_nsvm_simd_end(CPUX86State *env)
{
    uint32_t before = env->mxcsr & MXCSR_FLAGS;
    uint32_t raised;

    env->mxcsr &= ~MXCSR_FLAGS;
    update_mxcsr_from_sse_status(env);
    raised = env->mxcsr & MXCSR_FLAGS;
    env->mxcsr |= before;
    if (!(raised & ~(env->mxcsr >> MXCSR_MASK_SHIFT))) {
        return;
    }
    if (env->nsvm.simd.offset) {
        memcpy((char *)env + env->nsvm.simd.offset, env->nsvm.simd.destination, sizeof(env->nsvm.simd.destination));
    }
    env->cc_dst = env->nsvm.simd.cc[0];
    env->cc_src = env->nsvm.simd.cc[1];
    env->cc_src2 = env->nsvm.simd.cc[2];
    update_mxcsr_status(env);
    raise_exception_err_ra(env, env->cr[4] & CR4_OSXMMEXCPT_MASK ? VECTOR_XF : EXCP06_ILLOP, 0, GETPC());
}
