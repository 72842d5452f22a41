/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_INSN_H
#define NSVM_INSN_H

#ifndef CONFIG_USER_ONLY
uint32_t nsvm_insn_at(CPUX86State *env, uintptr_t retaddr);
#endif

#endif
