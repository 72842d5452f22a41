/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_CLEAN_H
#define NSVM_CLEAN_H

#ifndef CONFIG_USER_ONLY
void nsvm_clean_vmrun(CPUX86State *env);
void nsvm_clean_note_exit(CPUX86State *env, uint64_t exit_code);
void nsvm_clean_vmexit(CPUX86State *env);
void nsvm_clean_add(unsigned offset, unsigned size_bytes, int bit);
void nsvm_clean_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value);
void nsvm_clean_post_load(CPUX86State *env);
bool nsvm_clean_check_config(CPUX86State *env, Error **errp);

uint64_t nsvm_clean_load(CPUX86State *env, hwaddr address, unsigned size_bytes);
void nsvm_clean_store(CPUX86State *env, hwaddr address, uint64_t value, unsigned size_bytes);
void nsvm_clean_load_seg(CPUX86State *env, int mmu_idx, hwaddr address, SegmentCache *segment, unsigned *attributes);
void nsvm_clean_save_seg(CPUX86State *env, int mmu_idx, hwaddr address, const SegmentCache *segment);

/* Whether a physical address is of the VMCB in use, and this CPU has its own copy of that VMCB. */
static inline bool nsvm_clean_has(CPUX86State *env, hwaddr address)
{
    return unlikely(env->nsvm.clean.in_use) && address - env->nsvm.clean.in_use < NSVM_CLEAN_BYTES;
}
#endif

#endif
