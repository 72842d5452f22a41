/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_EVENTS_H
#define NSVM_EVENTS_H

/* In NSVM_INSN words: the instruction accesses memory by SS, by another segment. */
#define NSVM_INSN_STACK (1u << 31)
#define NSVM_INSN_NO_STACK (1u << 30)

#ifndef CONFIG_USER_ONLY
void nsvm_event_begin(CPUX86State *env, int vector, int is_int, int error_code, int is_hw, int real_mode);
void nsvm_event_inject(CPUX86State *env, uint32_t event, uint32_t error_code);
int nsvm_event_has_error_code(CPUX86State *env, int vector);
void nsvm_event_stack_fault(CPUX86State *env, uint64_t address, int *vector, uintptr_t retaddr);

static inline void nsvm_event_end(CPUX86State *env)
{
    env->nsvm.events.info = 0;
    env->nsvm.events.error_code = 0;
    env->nsvm.events.injecting = false;
    env->nsvm.events.injected = false;
    env->nsvm.events.nmi = false;
    env->nsvm.events.on_stack = false;
}

static inline void nsvm_event_push(CPUX86State *env)
{
    env->nsvm.events.on_stack = true;
}

/* Whether a shutdown of the guest is an exit. */
static inline bool nsvm_event_shutdown_exits(CPUX86State *env)
{
    return !nsvm_on(env) || cpu_svm_has_intercept(env, SVM_EXIT_SHUTDOWN);
}
#endif

#endif
