/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting x87 instructions. Included by translate.c.
 */
#ifndef NSVM_X87_TRANSLATE_H
#define NSVM_X87_TRANSLATE_H

#define NSVM_FPUS_ES 0x80

/* `op` is the low three bits of the opcode and /r. */
static bool nsvm_x87_waits(int op, int mod, int rm)
{
    if (mod != 3) {
        switch (op) {
        case 0x0e: /* FNSTENV */
        case 0x0f: /* FNSTCW */
        case 0x2e: /* FNSAVE */
        case 0x2f: /* FNSTSW */
            return false;
        }
        return true;
    }
    return !(op == 0x1c && rm <= 4) /* FNENI, FNDISI, FNCLEX, FNINIT, FNSETPM */
           && !(op == 0x3c && rm == 0); /* FNSTSW AX */
}

static void nsvm_x87_wait(DisasContext *s, int op, int mod, int rm)
{
    TCGLabel *none;
    TCGv_i32 status;

    if (!s->nsvm_on || !nsvm_x87_waits(op, mod, rm)) {
        return;
    }
    none = gen_new_label();
    status = tcg_temp_new_i32();
    translator_io_start(&s->base); /* because of ferr_irq, as for FWAIT */
    tcg_gen_ld16u_i32(status, tcg_env, offsetof(CPUX86State, fpus));
    tcg_gen_andi_i32(status, status, NSVM_FPUS_ES);
    tcg_gen_brcondi_i32(TCG_COND_EQ, status, 0, none);
    gen_helper_fwait(tcg_env);
    gen_set_label(none);
}

#endif
