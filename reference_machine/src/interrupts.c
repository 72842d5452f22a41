/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Interrupts, INIT and SMI, around a guest.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "tcg/helper-tcg.h"

/* V_TPR has changed. */
void nsvm_virq_update(CPUX86State *env)
{
    CPUState *cs = env_cpu(env);

    bql_lock();
    nsvm_fault_cr8(env);
    if (nsvm_in_guest(env) && ctl_has_irq(env)) {
        cpu_interrupt(cs, CPU_INTERRUPT_VIRQ);
    } else {
        cpu_reset_interrupt(cs, CPU_INTERRUPT_VIRQ);
    }
    bql_unlock();
}

/* The virtual interrupt is taken: an exit in its delivery finds it in EXITINTINFO, not in V_IRQ. */
void nsvm_virq_dispatch(CPUX86State *env, int *vector)
{
    if (nsvm_on(env)) {
        *vector &= nsvm_fault(NSVM_FAULT_V_INTR_VECTOR_IGNORED) ? 0 : 0xff;
        env_cpu(env)->interrupt_request &= ~CPU_INTERRUPT_VIRQ;
        env->int_ctl &= ~(nsvm_fault(NSVM_FAULT_V_IRQ_STAYS) ? 0 : V_IRQ_MASK);
    }
}

/* What INIT does to our state (the rest of the CPU is reset by QEMU). */
static void reset_by_init(CPUX86State *env)
{
    nsvm_event_end(env);
    nsvm_load_drop_guest(env);
    nsvm_svml_init(env);
    env->nsvm.checks.refused = false;
    env->nsvm.interrupts.smm_in_guest = false;
}

/* An INIT is pending: whether the CPU is reset now. Its intercept has been asked then. */
bool nsvm_init_is_taken(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    if (!nsvm_on(env)) {
        return true;
    }
    if (!(env->hflags2 & HF2_GIF_MASK)) {
        return false;
    }
    cpu_svm_check_intercept_param(env, SVM_EXIT_INIT, 0, 0);
    if (nsvm_init_is_redirected(env)) {
        cs->interrupt_request &= ~CPU_INTERRUPT_INIT;
        raise_exception_err(env, NSVM_EXCP_SX, 1);
    }
    reset_by_init(env);
    return true;
}

/* SMM interrupts a guest: nothing in it is intercepted, and its memory is the host's. */
void nsvm_smm_enter(CPUX86State *env)
{
    uint32_t of_guest = HF2_NPT_MASK | HF2_VINTR_MASK | HF2_HIF_MASK | HF2_VGIF_MASK;

    if (!nsvm_on(env) || !nsvm_in_guest(env)) {
        return;
    }
    env->nsvm.interrupts.smm_in_guest = true;
    env->nsvm.interrupts.smm_hflags2 = env->hflags2 & of_guest;
    env->nsvm.interrupts.smm_intercept = env->intercept;
    env->nsvm.interrupts.smm_exceptions = env->intercept_exceptions;
    env->intercept = 0;
    env->intercept_exceptions = 0;
    env->hflags &= ~HF_GUEST_MASK;
    env->hflags2 &= ~of_guest;
    tlb_flush(env_cpu(env));
}

void nsvm_smm_leave(CPUX86State *env)
{
    if (!env->nsvm.interrupts.smm_in_guest) {
        return;
    }
    env->nsvm.interrupts.smm_in_guest = false;
    env->intercept = env->nsvm.interrupts.smm_intercept;
    env->intercept_exceptions = env->nsvm.interrupts.smm_exceptions;
    env->hflags |= HF_GUEST_MASK;
    env->hflags2 |= env->nsvm.interrupts.smm_hflags2;
    nsvm_segments_update(env);
    tlb_flush(env_cpu(env));
}
