/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_PAUSE_H
#define NSVM_PAUSE_H

#ifndef CONFIG_USER_ONLY
void nsvm_pause_vmrun(CPUX86State *env);
bool nsvm_pause_is_filtered(CPUX86State *env, uint32_t exit_code);
#endif

#endif
