/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_TASKS_H
#define NSVM_TASKS_H

#ifndef CONFIG_USER_ONLY
void nsvm_task_intercept(CPUX86State *env, int selector, bool is_iret, bool is_jmp, uintptr_t retaddr);
#endif

/* QEMU loads TR with the type from before the TSS became busy. */
static inline void nsvm_task_set_busy(CPUX86State *env)
{
    if (nsvm_on(env)) {
        env->tr.flags |= DESC_TSS_BUSY_MASK;
    }
}

#endif
