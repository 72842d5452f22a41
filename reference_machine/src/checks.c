/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VMRUN's consistency checks (APM2 15.5.1, 15.10.1, 15.11, 15.20, 15.25.3, 15.25.4).
 *
 * They look at the VMCB and at the host's state, before VMRUN has loaded anything. Other features of the manual that
 * have a check (AVIC, V_NMI, SSS, CET) are offered by no CPU here: their fields are not looked at.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"

#define CONTROL(field) nsvm_vmcb_ldq(env, offsetof(struct vmcb, control.field))
#define SAVE(field) nsvm_vmcb_ldq(env, offsetof(struct vmcb, save.field))

#define HIGH_HALF 0xffffffff00000000ULL
#define MSRPM_LAST_BYTE 0x1fff
#define IOPM_LAST_BYTE 0x2000
/* Bits of a segment's attributes in the VMCB. */
#define ATTRIBUTE_L (1 << 9)
#define ATTRIBUTE_D (1 << 10)
/* Vectors of exceptions that an event of TYPE 3 may have: not NMI, 9, 15, nor those of features not offered. */
#define EXCEPTIONS 0x400f7dfb

uint64_t nsvm_efer_allowed(CPUX86State *env)
{
    uint64_t extended = env->features[FEAT_8000_0001_EDX];
    uint64_t allowed = 0;

    allowed |= extended & CPUID_EXT2_SYSCALL ? MSR_EFER_SCE : 0;
    allowed |= extended & CPUID_EXT2_LM ? MSR_EFER_LME | MSR_EFER_LMA : 0;
    allowed |= extended & CPUID_EXT2_NX ? MSR_EFER_NXE : 0;
    allowed |= extended & CPUID_EXT2_FFXSR ? MSR_EFER_FFXSR : 0;
    allowed |= env->features[FEAT_8000_0001_ECX] & CPUID_EXT3_SVM ? MSR_EFER_SVME : 0;
    return allowed;
}

uint64_t nsvm_cr4_reserved(CPUX86State *env)
{
    return cr4_reserved_bits(env) | (env->features[FEAT_1_ECX] & CPUID_EXT_PCID ? 0 : CR4_PCIDE_MASK);
}

bool nsvm_pdpes_are_illegal(CPUX86State *env, uint64_t cr3)
{
    for (int i = 0; i < 4; i++) {
        uint64_t entry = x86_ldq_phys(env_cpu(env), (cr3 & 0xffffffe0) + i * 8);

        if ((entry & PG_PRESENT_MASK) && (entry & (NSVM_PDPE_RESERVED | nsvm_beyond_maxphyaddr(env)))) {
            return true;
        }
    }
    return false;
}

static bool controls_are_illegal(CPUX86State *env)
{
    uint64_t limit = 1ULL << env_archcpu(env)->phys_bits;

    return !(CONTROL(intercept) & 1ULL << (SVM_EXIT_VMRUN - SVM_EXIT_INTR))
           || (!(uint32_t)CONTROL(asid) && !nsvm_fault(NSVM_FAULT_CHECK_ASID_0_TAKEN))
           || ((CONTROL(msrpm_base_pa) & TARGET_PAGE_MASK) > limit - 1 - MSRPM_LAST_BYTE
               && !nsvm_fault(NSVM_FAULT_CHECK_MSRPM_ADDRESS_TAKEN))
           || (CONTROL(iopm_base_pa) & TARGET_PAGE_MASK) > limit - 1 - IOPM_LAST_BYTE;
}

static bool nested_paging_is_illegal(CPUX86State *env)
{
    return !(env->cr[0] & CR0_PG_MASK)
           || ((CONTROL(nested_cr3) & nsvm_beyond_maxphyaddr(env)) && !nsvm_fault(NSVM_FAULT_NP_NCR3_UNCHECKED))
           || (nsvm_pat_is_illegal(SAVE(g_pat)) && !nsvm_fault(NSVM_FAULT_NP_GPAT_UNCHECKED));
}

static bool mode_is_illegal(uint64_t efer, uint64_t cr0, uint64_t cr4, uint64_t cs_attributes)
{
    if (!(efer & MSR_EFER_LME) || !(cr0 & CR0_PG_MASK)) {
        return false;
    }
    return (!(cr4 & CR4_PAE_MASK) && !nsvm_fault(NSVM_FAULT_CHECK_LONG_MODE_WITHOUT_PAE)) || !(cr0 & CR0_PE_MASK)
           || (cs_attributes & (ATTRIBUTE_L | ATTRIBUTE_D)) == (ATTRIBUTE_L | ATTRIBUTE_D);
}

static bool event_is_illegal(uint32_t event, bool in_64_bit_mode)
{
    uint8_t vector = event & SVM_EVTINJ_VEC_MASK;

    if (!(event & SVM_EVTINJ_VALID)) {
        return false;
    }
    switch (event & SVM_EVTINJ_TYPE_MASK) {
    case SVM_EVTINJ_TYPE_INTR:
    case SVM_EVTINJ_TYPE_NMI:
    case SVM_EVTINJ_TYPE_SOFT:
        return false;
    case SVM_EVTINJ_TYPE_EXEPT:
        if (nsvm_fault(NSVM_FAULT_CHECK_EVENT_NMI_AS_EXCEPTION) && vector == EXCP02_NMI) {
            return false;
        }
        return vector > 31 || !(EXCEPTIONS >> vector & 1) || (vector == EXCP05_BOUND && in_64_bit_mode);
    default:
        return true;
    }
}

static bool vmcb_is_illegal(CPUX86State *env)
{
    uint64_t efer = SAVE(efer), cr0 = SAVE(cr0), cr3 = SAVE(cr3), cr4 = SAVE(cr4);
    uint64_t cs_attributes = SAVE(cs) >> 16; /* the selector comes first */
    bool nested_paging = (CONTROL(nested_ctl) & SVM_NPT_ENABLED) && nsvm_np_offered(env);
    bool long_mode = (efer & MSR_EFER_LME) && (cr0 & CR0_PG_MASK);
    bool legacy_pae = !long_mode && (cr0 & CR0_PG_MASK) && (cr4 & CR4_PAE_MASK);

    return controls_are_illegal(env)
           || (!(efer & MSR_EFER_SVME) && !nsvm_fault(NSVM_FAULT_CHECK_SVME_CLEAR_TAKEN))
           || (efer & ~nsvm_efer_allowed(env))
           || (cr0 & HIGH_HALF)
           || ((cr0 & CR0_NW_MASK) && !(cr0 & CR0_CD_MASK) && !nsvm_fault(NSVM_FAULT_CHECK_NW_WITHOUT_CD_TAKEN))
           || ((cr3 & nsvm_beyond_maxphyaddr(env)) && !nsvm_fault(NSVM_FAULT_CHECK_CR3_MBZ_TAKEN))
           || ((cr4 & nsvm_cr4_reserved(env)) && !nsvm_fault(NSVM_FAULT_CHECK_CR4_RESERVED_TAKEN))
           || (SAVE(dr6) & HIGH_HALF)
           || ((SAVE(dr7) & HIGH_HALF) && !nsvm_fault(NSVM_FAULT_CHECK_DR7_HIGH_TAKEN))
           || mode_is_illegal(efer, cr0, cr4, cs_attributes)
           || (nested_paging && nested_paging_is_illegal(env))
           || (!nested_paging && legacy_pae && nsvm_pdpes_are_illegal(env, cr3))
           || event_is_illegal(CONTROL(event_inj), long_mode && (cs_attributes & ATTRIBUTE_L));
}

/* Whether VMRUN must refuse the VMCB at vm_vmcb. */
bool nsvm_check_vmcb(CPUX86State *env)
{
    env->nsvm.checks.refused = nsvm_on(env) && vmcb_is_illegal(env);
    return env->nsvm.checks.refused;
}

/* For #VMEXIT: whether it is the end of a refused VMRUN. Says so once. */
bool nsvm_check_was_refused(CPUX86State *env)
{
    bool refused = env->nsvm.checks.refused;

    env->nsvm.checks.refused = false;
    if (refused) {
        env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    }
    return refused;
}

void nsvm_check_hsave(CPUX86State *env, uintptr_t retaddr)
{
    if (nsvm_on(env) && !env->vm_hsave) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
    }
}
