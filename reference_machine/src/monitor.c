/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MONITOR and MWAIT. A store to the line disarms: seen, when MWAIT looks, by what is in the line. A store of what was
 * there already is not seen.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"
#include "tcg/helper-tcg.h"

#define LINE_BYTES 64

static bool read_line(CPUX86State *env, uint64_t line[8])
{
    int mmu_index = cpu_mmu_index(env_cpu(env), false);
    void *host = NULL;
    int flags = probe_access_flags(env, env->nsvm.monitor.address, 0, MMU_DATA_LOAD, mmu_index, true, &host, 0);

    if ((flags & TLB_INVALID_MASK) || !host) {
        return false;
    }
    memcpy(line, host, LINE_BYTES);
    return true;
}

/* The exceptions of a one-byte read. */
void nsvm_monitor_touch(CPUX86State *env, target_ulong address, uintptr_t retaddr)
{
    if (nsvm_on(env)) {
        cpu_ldub_data_ra(env, address, retaddr);
    }
}

void nsvm_monitor_arm(CPUX86State *env, target_ulong address, uintptr_t retaddr)
{
    if (nsvm_on(env)) {
        env->nsvm.monitor.address = address & ~(target_ulong)(LINE_BYTES - 1);
        env->nsvm.monitor.armed = read_line(env, env->nsvm.monitor.line);
    }
}

/* MWAIT: asks the intercept of an armed one; it is disarmed if MWAIT completes. */
void nsvm_monitor_wait(CPUX86State *env, uintptr_t retaddr)
{
    uint64_t line[8];
    bool armed = env->nsvm.monitor.armed && read_line(env, line)
                 && !memcmp(line, env->nsvm.monitor.line, LINE_BYTES);

    if (!nsvm_on(env)) {
        return;
    }
    if (armed) {
        cpu_svm_check_intercept_param(env, NSVM_EXIT_MWAIT_ARMED, 0, retaddr);
    }
    env->nsvm.monitor.armed = false;
}
