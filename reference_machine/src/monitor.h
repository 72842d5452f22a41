/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_MONITOR_H
#define NSVM_MONITOR_H

#define NSVM_EXIT_MWAIT_ARMED 0x08c

#ifndef CONFIG_USER_ONLY
void nsvm_monitor_touch(CPUX86State *env, target_ulong address, uintptr_t retaddr);
void nsvm_monitor_arm(CPUX86State *env, target_ulong address, uintptr_t retaddr);
void nsvm_monitor_wait(CPUX86State *env, uintptr_t retaddr);

static inline void nsvm_monitor_disarm(CPUX86State *env)
{
    env->nsvm.monitor.armed = false;
}
#endif

#endif
