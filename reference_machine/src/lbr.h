/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_LBR_H
#define NSVM_LBR_H

/* In hflags, and so in the flags of a translated block: DEBUGCTL.LBR or BTF is set. No bit of QEMU's. */
#define NSVM_HF_BRANCHES (1u << 29)

#define NSVM_DEBUGCTL_LBR 1
#define NSVM_DEBUGCTL_BTF 2

void nsvm_lbr_update(CPUX86State *env);
void nsvm_lbr_branch(CPUX86State *env, target_ulong from, target_ulong to);
void nsvm_lbr_event(CPUX86State *env, target_ulong from, int vector, int is_int, int is_hw);
bool nsvm_lbr_wrmsr(CPUX86State *env, uint32_t number, uint64_t value, uintptr_t retaddr);
bool nsvm_lbr_rdmsr(CPUX86State *env, uint32_t number);
void nsvm_lbr_vmrun(CPUX86State *env);
void nsvm_lbr_vmexit(CPUX86State *env);

/* With BTF, TF traps after taken branches only. */
static inline bool nsvm_lbr_btf(CPUX86State *env)
{
    return env->nsvm.lbr.debugctl & NSVM_DEBUGCTL_BTF;
}

#endif
