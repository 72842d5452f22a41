/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translator's part of SIMD floating-point exceptions. Included by decode-new.c.inc.
 */
#ifndef NSVM_SIMD_TRANSLATE_H
#define NSVM_SIMD_TRANSLATE_H

static bool nsvm_simd_is_watched(DisasContext *s, const X86DecodedInsn *decode)
{
    if (likely(!(tb_cflags(s->base.tb) & NSVM_CF_SIMD))) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (decode->op[i].unit == X86_OP_SSE) {
            return true;
        }
    }
    return false;
}

static void nsvm_simd_begin(DisasContext *s, const X86DecodedInsn *decode)
{
    bool is_register = !decode->op[0].has_ea
                       && (decode->op[0].unit == X86_OP_SSE || decode->op[0].unit == X86_OP_MMX);

    if (nsvm_simd_is_watched(s, decode)) {
        gen_helper_nsvm_simd_begin(tcg_env, tcg_constant_i32(is_register ? decode->op[0].offset : 0));
    }
}

static void nsvm_simd_end(DisasContext *s, const X86DecodedInsn *decode)
{
    if (decode->e.gen == gen_LDMXCSR || decode->e.gen == gen_FXRSTOR || decode->e.gen == gen_XRSTOR) {
        if (s->nsvm_on && s->base.is_jmp == DISAS_NEXT) {
            s->base.is_jmp = DISAS_EOB_NEXT; /* the next block may need other code */
        }
    } else if (nsvm_simd_is_watched(s, decode)) {
        gen_helper_nsvm_simd_end(tcg_env);
    }
}

#endif
