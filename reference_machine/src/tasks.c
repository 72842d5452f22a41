/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The task switch intercept (APM2 15.14.1).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

#define EXITINFO2_IRET (1ULL << 36)
#define EXITINFO2_JMP (1ULL << 38)
#define EXITINFO2_HAS_ERROR_CODE (1ULL << 44)
#define EXITINFO2_RF (1ULL << 48)

/* Whether the outgoing TSS would get RF=1: an exception that is a fault sets it. */
static bool rf_of_outgoing_task(CPUX86State *env)
{
    uint32_t event = env->nsvm.events.info;

    if (!(event & SVM_EVTINJ_VALID)) {
        return env->eflags & RF_MASK;
    }
    if ((event & SVM_EVTINJ_TYPE_MASK) != SVM_EVTINJ_TYPE_EXEPT) {
        return false;
    }
    switch (event & SVM_EVTINJ_VEC_MASK) {
    case EXCP01_DB:
    case EXCP03_INT3:
    case EXCP04_INTO:
    case EXCP08_DBLE:
    case EXCP12_MCHK:
        return false;
    default:
        return true;
    }
}

/* A task switch is about to begin: its gate and its TSS descriptor are good. `selector` is the incoming TSS's. */
void nsvm_task_intercept(CPUX86State *env, int selector, bool is_iret, bool is_jmp, uintptr_t retaddr)
{
    uint64_t exit_info_2 = 0;

    if (!nsvm_on(env) || !nsvm_in_guest(env) || !cpu_svm_has_intercept(env, SVM_EXIT_TASK_SWITCH)) {
        return;
    }
    exit_info_2 |= is_iret ? EXITINFO2_IRET : 0;
    exit_info_2 |= is_jmp ? EXITINFO2_JMP : 0;
    exit_info_2 |= rf_of_outgoing_task(env) ? EXITINFO2_RF : 0;
    if (env->nsvm.events.info & SVM_EVTINJ_VALID_ERR) {
        exit_info_2 |= EXITINFO2_HAS_ERROR_CODE | env->nsvm.events.error_code;
    }
    nsvm_vmcb_stq(env, offsetof(struct vmcb, control.exit_info_2), exit_info_2);
    cpu_vmexit(env, SVM_EXIT_TASK_SWITCH, (uint16_t)selector, retaddr);
}
