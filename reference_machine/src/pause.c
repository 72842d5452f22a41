/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The PAUSE filter and its threshold (APM2 15.14.4 and table 15-7).
 *
 * VMRUN loads the count into the CPU; 03Eh and 03Ch are never written. The table lets the exit come when the count
 * reaches zero, 15.14.4 when it falls below zero: without a threshold the first is done (count N: the Nth PAUSE
 * exits), with one the second (the N+1st). A count of 0: every PAUSE exits.
 * With a threshold, a PAUSE that comes later after the one before loads the count anew. The first one after VMRUN has
 * none before it and counts.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

#define VMCB_PAUSE_THRESHOLD 0x03c
#define VMCB_PAUSE_COUNT 0x03e

void nsvm_pause_vmrun(CPUX86State *env)
{
    env->nsvm.pause.count = env->nsvm.pause.loaded = 0;
    env->nsvm.pause.threshold = 0;
    env->nsvm.pause.is_first = true;
    if (nsvm_has(env, CPUID_SVM_PAUSEFILTER)) {
        env->nsvm.pause.loaded = x86_lduw_phys(env_cpu(env), env->vm_vmcb + VMCB_PAUSE_COUNT);
        env->nsvm.pause.count = env->nsvm.pause.loaded + nsvm_fault(NSVM_FAULT_PAUSE_COUNT_ONE_MORE);
    }
    if (nsvm_has(env, CPUID_SVM_PFTHRESHOLD)) {
        env->nsvm.pause.threshold = x86_lduw_phys(env_cpu(env), env->vm_vmcb + VMCB_PAUSE_THRESHOLD);
    }
}

/* Whether the time since the last PAUSE is longer than the threshold. */
static bool is_late(CPUX86State *env)
{
    uint64_t now = cpu_get_tsc(env), since = now - env->nsvm.pause.last;
    bool late = !env->nsvm.pause.is_first
                && since / MAX(env->nsvm_config.pause.ticks, 1) > env->nsvm.pause.threshold;

    env->nsvm.pause.last = now;
    env->nsvm.pause.is_first = false;
    return late;
}

/* When an intercept is asked: whether it is that of a PAUSE which does not exit yet. */
bool nsvm_pause_is_filtered(CPUX86State *env, uint32_t exit_code)
{
    if (exit_code != SVM_EXIT_PAUSE || !nsvm_has(env, CPUID_SVM_PAUSEFILTER) || !env->nsvm.pause.loaded
        || !cpu_svm_has_intercept(env, SVM_EXIT_PAUSE)) {
        return false;
    }
    if (!env->nsvm.pause.threshold || nsvm_fault(NSVM_FAULT_PAUSE_THRESHOLD_IGNORED)) {
        return --env->nsvm.pause.count != 0;
    }
    if (is_late(env)) {
        env->nsvm.pause.count = env->nsvm.pause.loaded;
        return true;
    }
    return env->nsvm.pause.count-- != 0;
}

/* A guest's PAUSE that does not exit. Where a filter counts, the guest goes on at once: it exits soon enough. */
void helper_nsvm_pause(CPUX86State *env)
{
    if (!env->nsvm.pause.loaded || !cpu_svm_has_intercept(env, SVM_EXIT_PAUSE)) {
        helper_pause(env);
    }
}
