/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translator's part of the intercepts. Included by decode-new.c.inc.
 */
#ifndef NSVM_INTERCEPTS_TRANSLATE_H
#define NSVM_INTERCEPTS_TRANSLATE_H

/* MOV to a control register, MOV to and from a debug register: their helpers ask the intercept. */
static bool nsvm_is_cr_write_or_dr(const X86DecodedInsn *decode)
{
    return decode->op[0].unit == X86_OP_CR || decode->op[0].unit == X86_OP_DR
           || decode->op[1].unit == X86_OP_DR || decode->op[2].unit == X86_OP_DR;
}

/* Before the CPL is checked and the intercept asked. */
static void nsvm_correct_checks(DisasContext *s, X86DecodedInsn *decode)
{
    if (decode->e.has_intercept
        && (decode->e.intercept == SVM_EXIT_INVD || decode->e.intercept == SVM_EXIT_WBINVD)) {
        decode->e.check |= X86_CHECK_cpl0;
    }
#ifndef CONFIG_USER_ONLY
    if (decode->e.gen == gen_INT && GUEST(s) && VM86(s) && IOPL(s) < 3) {
        gen_update_cc_op(s);
        gen_update_eip_cur(s);
        gen_helper_nsvm_intn(tcg_env, tcg_constant_i32((uint8_t)decode->immediate), cur_insn_len_i32(s));
    }
#endif
}

#endif
