/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intercepts and the exceptions before them (APM2 15.9).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"

#define CR8_RESERVED (~0xfULL)

/* Combinations that MOV to CR0 refuses (APM2 3.1.1). */
static bool cr0_is_illegal(CPUX86State *env, uint64_t value)
{
    bool enters_paging = (value & CR0_PG_MASK) && !(env->cr[0] & CR0_PG_MASK);

    return (value & SVM_CR0_RESERVED_MASK)
           || ((value & CR0_NW_MASK) && !(value & CR0_CD_MASK))
           || ((value & CR0_PG_MASK) && !(value & CR0_PE_MASK))
           || (enters_paging && (env->efer & MSR_EFER_LME)
               && (!(env->cr[4] & CR4_PAE_MASK) || (env->segs[R_CS].flags & DESC_L_MASK)))
           || (!(value & CR0_PG_MASK) && (env->hflags & HF_CS64_MASK));
}

static bool cr4_is_illegal(CPUX86State *env, uint64_t value)
{
    bool in_long_mode = env->efer & MSR_EFER_LMA;

    return (value & nsvm_cr4_reserved(env))
           || (in_long_mode && !(value & CR4_PAE_MASK))
           || (in_long_mode && ((value ^ env->cr[4]) & CR4_LA57_MASK));
}

/* The selective CR0 write intercept: some other bit than TS and MP changes. LMSW has asked already. */
static bool cr0_change_is_intercepted(CPUX86State *env, uint64_t value)
{
    return nsvm_in_guest(env) && cpu_svm_has_intercept(env, SVM_EXIT_CR0_SEL_WRITE)
           && ((env->cr[0] ^ value) & ~(uint64_t)(CR0_TS_MASK | CR0_MP_MASK
                                                  | (nsvm_fault(NSVM_FAULT_CR0_SEL_WITHOUT_EM) ? CR0_EM_MASK : 0)));
}

/* Whether the four page-directory pointers are read now and are illegal. With nested paging each is read at its use. */
static bool pdpes_are_illegal(CPUX86State *env, uint64_t cr0, uint64_t cr3, uint64_t cr4)
{
    bool enters_long_mode = (env->efer & MSR_EFER_LME) && (cr0 & CR0_PG_MASK);

    return (cr0 & CR0_PG_MASK) && (cr4 & CR4_PAE_MASK) && !enters_long_mode
           && !(env->hflags2 & HF2_NPT_MASK) && nsvm_pdpes_are_illegal(env, cr3);
}

/*
 * MOV to CR or LMSW: first the exceptions that the value makes, then the intercepts, then those that memory makes.
 */
void nsvm_check_mov_to_cr(CPUX86State *env, int reg, uint64_t value, bool is_lmsw, uintptr_t retaddr)
{
    bool in_long_mode = env->efer & MSR_EFER_LMA;
    bool illegal = (reg == 0 && cr0_is_illegal(env, value))
                   || (reg == 3 && in_long_mode && (value & nsvm_beyond_maxphyaddr(env)))
                   || (reg == 4 && cr4_is_illegal(env, value))
                   || (reg == 8 && (value & CR8_RESERVED));

    if (illegal) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
    }
    if (!is_lmsw) {
        cpu_svm_check_intercept_param(env, SVM_EXIT_WRITE_CR0 + reg, 0, retaddr);
        if (reg == 0 && cr0_change_is_intercepted(env, value)) {
            cpu_vmexit(env, SVM_EXIT_CR0_SEL_WRITE, 0, retaddr);
        }
    }
    if ((reg == 3 && pdpes_are_illegal(env, env->cr[0], value, env->cr[4]))
        || (reg == 0 && ((value ^ env->cr[0]) & CR0_PG_MASK) && pdpes_are_illegal(env, value, env->cr[3], env->cr[4]))
        || (reg == 4 && ((value ^ env->cr[4]) & CR4_PAE_MASK)
            && pdpes_are_illegal(env, env->cr[0], env->cr[3], value))) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
    }
}

/* Which intercept RDTSC's helper asks: RDTSCP calls it too. */
uint32_t nsvm_rdtsc_exit_code(CPUX86State *env, uintptr_t retaddr)
{
    if (nsvm_fault_active()) {
        env->nsvm.fault.rdtscp = nsvm_insn_at(env, retaddr) & NSVM_INSN_RDTSCP;
    }
    if (nsvm_on(env) && nsvm_in_guest(env)
        && (cpu_svm_has_intercept(env, SVM_EXIT_RDTSC) || cpu_svm_has_intercept(env, SVM_EXIT_RDTSCP))
        && (nsvm_insn_at(env, retaddr) & NSVM_INSN_RDTSCP)) {
        return SVM_EXIT_RDTSCP;
    }
    return SVM_EXIT_RDTSC;
}

/* A pending x87 exception meets a waiting instruction with CR0.NE=0: FERR# would be asserted. */
void nsvm_ferr_intercept(CPUX86State *env, uintptr_t retaddr)
{
    if (nsvm_on(env) && !(env->hflags2 & HF2_IGNNE_MASK)) {
        if (!nsvm_fault(NSVM_FAULT_INTERCEPT_LOST_FERR)) {
            cpu_svm_check_intercept_param(env, SVM_EXIT_FERR_FREEZE, 0, retaddr);
        }
    }
}

/* INTn in virtual-8086 mode with IOPL below 3: the intercept comes before the #GP. */
void helper_nsvm_intn(CPUX86State *env, uint32_t vector, uint32_t length)
{
    if (cpu_svm_has_intercept(env, SVM_EXIT_SWINT)) {
        raise_interrupt(env, vector, length);
    }
}
