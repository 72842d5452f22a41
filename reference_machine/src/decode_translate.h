/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translator's part of DecodeAssists. Included by decode-new.c.inc.
 */
#ifndef NSVM_DECODE_TRANSLATE_H
#define NSVM_DECODE_TRANSLATE_H

/* MOV to or from a control or debug register: which GPR. Operand 0 is written, operand 1 read. */
static void nsvm_decode_mov_cr_dr(DisasContext *s, const X86DecodedInsn *decode)
{
    for (int i = 0; i < 2; i++) {
        if (decode->op[i].unit == X86_OP_CR || decode->op[i].unit == X86_OP_DR) {
            s->nsvm_insn |= NSVM_INSN_MOV_CR_DR | NSVM_INSN_OF_GPR(decode->op[!i].n);
        }
    }
}

#endif
