/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translator's part of segment checks. Included by translate.c.
 */
#ifndef NSVM_SEGMENTS_TRANSLATE_H
#define NSVM_SEGMENTS_TRANSLATE_H

/* `address` becomes one of this segment. */
static void nsvm_segment_note(DisasContext *s, TCGv address, int segment)
{
    if (address == s->A0) {
        s->nsvm_segment_of_a0 = segment;
    } else if (address == s->T0) {
        s->nsvm_segment_of_t0 = segment;
    }
}

/* Before a data access at `address`. DS, ES and SS are flat but where hflags says so; the others are rarely used. */
static void nsvm_segment_check(DisasContext *s, TCGv address, MemOp size, bool is_write)
{
    int segment = address == s->A0 ? s->nsvm_segment_of_a0 : address == s->T0 ? s->nsvm_segment_of_t0 : -1;
    bool may_fault = segment == R_CS || segment >= R_FS || (s->flags & NSVM_HF_SEGMENTS);

    if (likely(!GUEST(s)) || CODE64(s) || !s->nsvm_on || segment < 0 || !may_fault) {
        return;
    }
    gen_helper_nsvm_segment(tcg_env, address,
                            tcg_constant_i32(NSVM_SEGMENT_ACCESS(segment, memop_size(size), is_write)));
}

#endif
