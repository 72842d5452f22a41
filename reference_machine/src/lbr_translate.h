/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translator's part of branch recording. Included by translate.c, before what ends a block.
 *
 * A branch that is recorded ends its block with gen_eob() and never jumps straight into the next one.
 */
#ifndef NSVM_LBR_TRANSLATE_H
#define NSVM_LBR_TRANSLATE_H

/* Whether the path that is being translated is a taken branch that must be recorded. */
static bool nsvm_lbr_records(DisasContext *s)
{
    return s->nsvm_is_branch && (s->flags & NSVM_HF_BRANCHES);
}

/* An instruction that is a branch, or will be if it is taken, begins. */
static void nsvm_lbr_begin(DisasContext *s)
{
    s->nsvm_is_branch = true;
    if (nsvm_lbr_records(s)) {
        tcg_gen_st_tl(eip_cur_tl(s), tcg_env, offsetof(CPUX86State, nsvm.lbr.from));
    }
}

/* A block ends; RIP is where it goes on. */
static void nsvm_lbr_end(DisasContext *s)
{
    if (nsvm_lbr_records(s)) {
        gen_helper_nsvm_lbr_branch(tcg_env);
    }
}

/* TF is set and an instruction ends. */
static void nsvm_lbr_step(DisasContext *s)
{
    gen_helper_nsvm_lbr_step(tcg_env, tcg_constant_i32(s->nsvm_is_branch));
    tcg_gen_exit_tb(NULL, 0);
}

#endif
