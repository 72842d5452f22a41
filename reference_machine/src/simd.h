/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_SIMD_H
#define NSVM_SIMD_H

/* In cflags of a CPU, and so of its translated blocks: MXCSR leaves an exception unmasked. No bit of QEMU's. */
#define NSVM_CF_SIMD (1u << 23)

#ifndef CONFIG_USER_ONLY
void nsvm_simd_update(CPUX86State *env);
#endif

#endif
