/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the translator knows of RIP, and an opcode that 64-bit mode does not have. Included by translate.c.
 */
#ifndef NSVM_PC_TRANSLATE_H
#define NSVM_PC_TRANSLATE_H

/* pc_save is the address to which cpu_eip belongs. Stock QEMU takes the last byte of the address space for "unknown". */
static bool nsvm_pc_is_known(const DisasContext *s)
{
    return s->nsvm_on ? !s->nsvm_pc_unknown : s->pc_save != -1;
}

static bool nsvm_has_no_into(const DisasContext *s)
{
    return s->nsvm_on && CODE64(s);
}

#endif
