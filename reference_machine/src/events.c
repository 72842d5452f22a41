/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event that is being delivered to the guest (APM2 15.7.2, 15.20).
 *
 * A delivery begins, and ends or is followed by another: that of an exception which it raised, alone or as part of a
 * #DF. A #VMEXIT in between finds the event here.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

#define EVENT_VECTOR_TYPE_EV_V 0x80000fffu
/* No stack access of an instruction that finds its operands itself is farther from RSP. */
#define STACK_REACH 128

static bool pushes_error_code(int vector)
{
    return exception_has_error_code(vector) || vector == NSVM_EXCP_SX;
}

static uint32_t type_of(CPUX86State *env, int is_int, int is_hw)
{
    if (env->nsvm.events.nmi) {
        return SVM_EVTINJ_TYPE_NMI;
    }
    if (is_hw) {
        return SVM_EVTINJ_TYPE_INTR;
    }
    return is_int && is_int != NSVM_IS_SOFT_EXCEPTION ? SVM_EVTINJ_TYPE_SOFT : SVM_EVTINJ_TYPE_EXEPT;
}

/* Delivery of an event to the guest begins. */
void nsvm_event_begin(CPUX86State *env, int vector, int is_int, int error_code, int is_hw, int real_mode)
{
    bool injected = env->nsvm.events.injecting;
    bool has_error_code = !is_int && !is_hw && !real_mode && pushes_error_code(vector);
    uint32_t type = type_of(env, is_int, is_hw);

    env->nsvm.events.injecting = false;
    env->nsvm.events.injected = injected;
    env->nsvm.events.nmi = false;
    env->nsvm.events.on_stack = false;
    if (!injected) {
        env->nsvm.events.info = vector | type | SVM_EVTINJ_VALID | (has_error_code ? SVM_EVTINJ_VALID_ERR : 0);
        env->nsvm.events.error_code = has_error_code ? error_code : 0;
    }
}

static bool can_become_double_fault(int vector)
{
    return vector == EXCP00_DIVZ || (vector >= EXCP0A_TSS && vector <= EXCP0E_PAGE) || vector == EXCP08_DBLE;
}

/* VMRUN has a valid event to inject. */
void nsvm_event_inject(CPUX86State *env, uint32_t event, uint32_t error_code)
{
    uint32_t type = event & SVM_EVTINJ_TYPE_MASK;
    int vector = event & SVM_EVTINJ_VEC_MASK;

    if (!nsvm_on(env)) {
        return;
    }
    if (type == SVM_EVTINJ_TYPE_NMI) {
        event = (event & ~SVM_EVTINJ_VEC_MASK) | EXCP02_NMI;
    }
    env->nsvm.events.info = event & EVENT_VECTOR_TYPE_EV_V;
    env->nsvm.events.error_code = event & SVM_EVTINJ_VALID_ERR ? error_code : 0;
    env->nsvm.events.injecting = true;
    env->old_exception = type == SVM_EVTINJ_TYPE_EXEPT && can_become_double_fault(vector) ? vector : -1;
}

int nsvm_event_has_error_code(CPUX86State *env, int vector)
{
    return env->nsvm.events.injected && !nsvm_fault(NSVM_FAULT_EVENTINJ_EV_IGNORED)
               ? !!(env->nsvm.events.info & SVM_EVTINJ_VALID_ERR)
                                     : nsvm_on(env) ? pushes_error_code(vector) : exception_has_error_code(vector);
}

static bool is_near_rsp(CPUX86State *env, uint64_t address)
{
    return address - env->regs[R_ESP] + STACK_REACH < 2 * STACK_REACH;
}

/*
 * #GP for an address that is not canonical is #SS where the access is one of the stack: of a frame that is pushed, or
 * of an instruction that uses SS. Of one that uses another segment too, or whose helper finds its operands itself
 * (IRET and the far ones), the address tells.
 */
void nsvm_event_stack_fault(CPUX86State *env, uint64_t address, int *vector, uintptr_t retaddr)
{
    if (*vector != EXCP0D_GPF || !nsvm_on(env)) {
        return;
    }
    if (env->nsvm.events.on_stack) {
        *vector = EXCP0C_STACK;
        return;
    }
    if (!retaddr) {
        return;
    }
    switch (nsvm_insn_at(env, retaddr) & (NSVM_INSN_STACK | NSVM_INSN_NO_STACK)) {
    case NSVM_INSN_STACK:
        *vector = EXCP0C_STACK;
        break;
    case NSVM_INSN_NO_STACK:
        break;
    default:
        *vector = is_near_rsp(env, address) ? EXCP0C_STACK : EXCP0D_GPF;
        break;
    }
}
