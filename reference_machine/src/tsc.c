/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The time-stamp counter (APM2 13.2.4, 15.30.5): MSR 10h, and what a guest reads of it.
 *
 *     guest's TSC = (counter x TSC ratio) + TSC_OFFSET, modulo 2^64
 *
 * The counter is QEMU's plus what the last WRMSR of MSR 10h made of it, which stores its value as it is, in a guest
 * too. The product of 64 x 40 bits is exact; what becomes of the 32 bits behind the point is a property. The manual
 * does not say what a ratio of 0 means: it is taken as it is, and the guest's TSC stands still.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/host-utils.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

#define MSR_TSC_RATIO 0xc0000104
#define TSC_RATIO_RESERVED 0xffffff0000000000ULL

static uint64_t counter(CPUX86State *env)
{
    return cpu_get_tsc(env) + env->nsvm.tsc.written;
}

static uint64_t scale(CPUX86State *env, uint64_t value)
{
    uint64_t low, high;
    uint32_t behind_point;

    mulu64(&low, &high, value, nsvm_fault_tsc_ratio(env->amd_tsc_scale_msr));
    behind_point = low;
    value = high << 32 | low >> 32;
    switch (env->nsvm_config.tsc.rounding[0]) {
    case 'n': /* nearest */
        return value + (behind_point >> 31);
    case 'u': /* up */
        return value + !!behind_point;
    default: /* down */
        return value;
    }
}

/* What RDTSC, RDTSCP and RDMSR of MSR 10h read: tsc_offset is 0 outside guests. */
uint64_t nsvm_tsc_read(CPUX86State *env)
{
    uint64_t value;

    if (!nsvm_on(env)) {
        return cpu_get_tsc(env) + env->tsc_offset;
    }
    value = counter(env);
    if (nsvm_fault_active()) {
        return nsvm_fault_tsc(env, value, nsvm_has(env, CPUID_SVM_TSCSCALE) ? scale(env, value) : value);
    }
    if (nsvm_in_guest(env)) {
        value = nsvm_has(env, CPUID_SVM_TSCSCALE) ? scale(env, value) : value;
        value += env->tsc_offset;
    }
    return value;
}

/* A WRMSR that is not intercepted. Returns whether it is done; else QEMU does it. */
bool nsvm_tsc_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value, uintptr_t retaddr)
{
    if (!nsvm_on(env)) {
        return false;
    }
    switch (msr) {
    case MSR_IA32_TSC:
        if (nsvm_fault(NSVM_FAULT_TSC_WRITE_LESS_OFFSET)) {
            value -= env->tsc_offset;
        }
        env->nsvm.tsc.written = value - cpu_get_tsc(env);
        return true;
    case MSR_TSC_RATIO:
        if (!nsvm_has(env, CPUID_SVM_TSCSCALE) || ((value & TSC_RATIO_RESERVED)
                                                            && !nsvm_fault(NSVM_FAULT_TSC_RATIO_RESERVED_TAKEN))) {
            raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
        }
        env->amd_tsc_scale_msr = value;
        return true;
    }
    return false;
}

/* A RDMSR that is not intercepted. Returns whether it is done; else QEMU does it. */
bool nsvm_tsc_rdmsr(CPUX86State *env, uint32_t msr, uintptr_t retaddr)
{
    uint64_t value;

    if (!nsvm_on(env)) {
        return false;
    }
    switch (msr) {
    case MSR_IA32_TSC:
        value = nsvm_fault(NSVM_FAULT_TSC_RDMSR_OF_HOST) ? counter(env) : nsvm_tsc_read(env);
        break;
    case MSR_TSC_RATIO:
        if (!nsvm_has(env, CPUID_SVM_TSCSCALE)) {
            raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
        }
        value = env->amd_tsc_scale_msr;
        break;
    default:
        return false;
    }
    env->regs[R_EAX] = (uint32_t)value;
    env->regs[R_EDX] = (uint32_t)(value >> 32);
    return true;
}

/* Returns whether x-nsvm-tsc-rounding has a value that there is, else says so in `errp`. */
bool nsvm_tsc_check_config(CPUX86State *env, Error **errp)
{
    const char *rounding;

    if (!env->nsvm_config.tsc.rounding) {
        env->nsvm_config.tsc.rounding = g_strdup("down"); /* a string property has no default of its own */
    }
    rounding = env->nsvm_config.tsc.rounding;
    if (!strcmp(rounding, "down") || !strcmp(rounding, "nearest") || !strcmp(rounding, "up")) {
        return true;
    }
    error_setg(errp, "x-nsvm-tsc-rounding=%s: say down, nearest or up", rounding);
    return false;
}
