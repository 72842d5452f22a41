/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The MSRs of SVM (APM2 15.30, 15.31), and what EFER and PAT refuse (3.1.7, 7.8.1).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

#define MSR_VM_CR 0xc0010114
#define MSR_IGNNE 0xc0010115
#define MSR_SVM_KEY 0xc0010118
#define MSR_AVIC_DOORBELL 0xc001011b

#define VM_CR_DEFINED 0x1fULL
#define VM_CR_LOCKED (NSVM_VM_CR_LOCK | NSVM_VM_CR_SVMDIS)

static bool has_svm_lock(CPUX86State *env)
{
    return env->features[FEAT_SVM] & CPUID_SVM_SVMLOCK;
}

/* MSRs that neither QEMU nor a permission map knows, and the doorbell of AVIC, which this CPU never has. */
static bool is_not_there(uint32_t msr)
{
    uint32_t range = msr & ~0x1fff;

    return msr == MSR_AVIC_DOORBELL || (range != 0 && range != 0xc0000000 && range != 0xc0010000);
}

static bool efer_is_illegal(CPUX86State *env, uint64_t value)
{
    return (value & ~nsvm_efer_allowed(env))
           || (((value ^ env->efer) & MSR_EFER_LME) && (env->cr[0] & CR0_PG_MASK))
           || ((value & MSR_EFER_SVME) && (env->nsvm.svml.vm_cr & NSVM_VM_CR_SVMDIS)
               && !nsvm_fault(NSVM_FAULT_SVMDIS_WITHOUT_EFFECT));
}

/* Returns whether the value is legal. LOCK and SVMDIS can be changed with SVM lock and while LOCK is clear only. */
static bool write_vm_cr(CPUX86State *env, uint64_t value)
{
    uint64_t old = env->nsvm.svml.vm_cr;

    if (((value & ~VM_CR_DEFINED) && !nsvm_fault(NSVM_FAULT_VM_CR_RESERVED_TAKEN))
        || ((value & NSVM_VM_CR_SVMDIS) && (env->efer & MSR_EFER_SVME)
            && !nsvm_fault(NSVM_FAULT_SVMDIS_WHILE_SVME))) {
        return false;
    }
    if (!has_svm_lock(env) || (old & NSVM_VM_CR_LOCK)) {
        uint64_t locked = nsvm_fault(NSVM_FAULT_VM_CR_LOCK_WRITABLE)     ? NSVM_VM_CR_SVMDIS
                          : nsvm_fault(NSVM_FAULT_VM_CR_SVMDIS_WRITABLE) ? NSVM_VM_CR_LOCK
                                                                         : VM_CR_LOCKED;

        value = (value & ~locked) | (old & locked);
    }
    env->nsvm.svml.vm_cr = value;
    return true;
}

static bool write_key(CPUX86State *env, uint64_t value)
{
    if (!has_svm_lock(env)) {
        return false;
    }
    if (!(env->nsvm.svml.vm_cr & NSVM_VM_CR_LOCK) || nsvm_fault(NSVM_FAULT_SVM_KEY_WRITABLE_LOCKED)) {
        env->nsvm.svml.key = value;
    } else if (nsvm_fault_svm_key_fits(value, value && value == env->nsvm.svml.key, env->nsvm.svml.key)) {
        env->nsvm.svml.vm_cr &= ~(uint64_t)NSVM_VM_CR_LOCK;
    }
    return true;
}

static bool write_ignne(CPUX86State *env, uint64_t value)
{
    if (value & ~1ULL) {
        return false;
    }
    env->hflags2 = (env->hflags2 & ~HF2_IGNNE_MASK) | (value ? HF2_IGNNE_MASK : 0);
    return true;
}

/* A WRMSR that is not intercepted. Returns whether it is done; else QEMU does it. */
bool nsvm_svml_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value, uintptr_t retaddr)
{
    bool legal = true, done = true;

    if (!nsvm_on(env)) {
        return false;
    }
    if (msr == MSR_EFER) {
        legal = !efer_is_illegal(env, value);
        done = false;
    } else if (msr == MSR_PAT) {
        legal = !nsvm_pat_is_illegal(value);
        done = false;
    } else if (is_not_there(msr)) {
        legal = false;
    } else if (!cpu_has_svm(env)) {
        return false;
    } else if (msr == MSR_VM_CR) {
        legal = write_vm_cr(env, value);
    } else if (msr == MSR_SVM_KEY) {
        legal = write_key(env, value);
    } else if (msr == MSR_IGNNE) {
        legal = write_ignne(env, value);
    } else {
        return false;
    }
    if (!legal) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
    }
    return done;
}

/* A RDMSR that is not intercepted. Returns whether it is done; else QEMU does it. */
bool nsvm_svml_rdmsr(CPUX86State *env, uint32_t msr, uintptr_t retaddr)
{
    uint64_t value;

    if (!nsvm_on(env)) {
        return false;
    }
    if (is_not_there(msr)) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
    }
    if (!cpu_has_svm(env)) {
        return false;
    }
    switch (msr) {
    case MSR_VM_CR:
        value = env->nsvm.svml.vm_cr & ~(nsvm_fault(NSVM_FAULT_VM_CR_LOCK_HIDDEN) ? NSVM_VM_CR_LOCK : 0ULL);
        break;
    case MSR_SVM_KEY:
        if (!has_svm_lock(env)) {
            raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
        }
        value = nsvm_fault(NSVM_FAULT_SVM_KEY_READABLE) ? env->nsvm.svml.key : 0;
        break;
    case MSR_IGNNE:
        value = !!(env->hflags2 & HF2_IGNNE_MASK);
        break;
    default:
        return false;
    }
    env->regs[R_EAX] = (uint32_t)value;
    env->regs[R_EDX] = (uint32_t)(value >> 32);
    return true;
}
