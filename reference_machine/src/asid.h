/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_ASID_H
#define NSVM_ASID_H

/* Whether translations live as long as their ASID, and not as long as one run of a guest. */
static inline bool nsvm_asids_are_kept(CPUX86State *env)
{
    return nsvm_on(env) && env->nsvm_config.asid.keep;
}

/* Added to the MMU index of what a guest accesses: see NSVM_MMU_GUEST in cpu.h. */
static inline int nsvm_asid_mmu_offset(CPUX86State *env)
{
    return (env->hflags & HF_GUEST_MASK) && nsvm_asids_are_kept(env) ? NSVM_MMU_GUEST : 0;
}

#ifndef CONFIG_USER_ONLY
void nsvm_asid_vmrun(CPUX86State *env, uint32_t asid);
void nsvm_asid_note_host(CPUX86State *env);
void nsvm_asid_check_host(CPUX86State *env);
void nsvm_asid_flush(CPUX86State *env);
void nsvm_asid_flush_for_cr3(CPUX86State *env);
void nsvm_asid_write_cr4(CPUX86State *env, uint32_t value);
void nsvm_asid_flush_page(CPUX86State *env, target_ulong address);
void nsvm_asid_flush_all(CPUX86State *env);
void nsvm_asid_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value);
void nsvm_asid_set_page(CPUX86State *env, vaddr address, hwaddr physical, int prot, int mmu_idx, int size_bytes);

/* VMRUN and #VMEXIT load CR0, CR3, CR4 without a flush. */
static inline void nsvm_asid_switch(CPUX86State *env, bool begins)
{
    env->nsvm.asid.switching = begins && nsvm_asids_are_kept(env);
}
#endif

#endif
