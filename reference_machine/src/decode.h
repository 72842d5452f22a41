/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_DECODE_H
#define NSVM_DECODE_H

/* At VMCB 0D0h: bits 3:0 are the count; the bytes follow. */
#define NSVM_VMCB_BYTE_COUNT 0x0d0
#define NSVM_DECODE_BYTES 15

uint64_t nsvm_decode_exit(CPUX86State *env, uint64_t exit_code, uint64_t exit_info_1, uintptr_t retaddr);

int nsvm_decode_fetch(CPUX86State *env, uint8_t *bytes);

/* INTn asks its intercept. */
static inline void nsvm_decode_note_vector(CPUX86State *env, int vector)
{
    env->nsvm.decode.vector = vector;
}

/* A page fault is coming, of a fetch or not: without NX and SMEP its error code does not say which. */
static inline void nsvm_decode_note_access(CPUX86State *env, bool is_fetch)
{
    env->nsvm.decode.is_fetch = is_fetch;
}

#endif
