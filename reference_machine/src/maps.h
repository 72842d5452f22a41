/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_MAPS_H
#define NSVM_MAPS_H

/* EXITINFO1 of IOIO, bits 12:10: the segment of OUTS, as QEMU numbers segments. */
#define NSVM_IOIO_SEG_SHIFT 10

#ifndef CONFIG_USER_ONLY
void nsvm_check_io(CPUX86State *env, uint32_t port, uint32_t info, uint32_t length, uintptr_t retaddr);
bool nsvm_msr_is_intercepted(CPUX86State *env, bool is_write);
#endif

#endif
