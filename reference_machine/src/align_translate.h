/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translator's part of alignment checking. Included by translate.c.
 */
#ifndef NSVM_ALIGN_TRANSLATE_H
#define NSVM_ALIGN_TRANSLATE_H

/* The MemOp of a data access of `size`, aligned if the CPU must check. */
static MemOp nsvm_alignment(DisasContext *s, MemOp size)
{
    if (likely(!(s->flags & AC_MASK)) || !(s->flags & NSVM_HF_AM) || CPL(s) != 3 || (size & MO_SIZE) == MO_8) {
        return size;
    }
    s->nsvm_insn |= NSVM_INSN_ALIGN;
    return size | MO_ALIGN;
}

#endif
