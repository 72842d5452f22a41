/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_FAULT_H
#define NSVM_FAULT_H

/* enum NsvmFault and its table, made from reference_machine/faults.toml. */
#include "target/i386/nsvm/faults.h"

/* One for the whole machine: NSVM_FAULT_NONE unless x-nsvm-fault says otherwise. */
extern NsvmFault nsvm_fault_chosen;

static inline bool nsvm_fault(NsvmFault fault)
{
    return unlikely(nsvm_fault_chosen == fault);
}

static inline bool nsvm_fault_active(void)
{
    return unlikely(nsvm_fault_chosen != NSVM_FAULT_NONE);
}

#ifndef CONFIG_USER_ONLY
bool nsvm_fault_check_config(CPUX86State *env, Error **errp);

hwaddr nsvm_fault_source_slow(CPUX86State *env, hwaddr address);
bool nsvm_fault_drops_slow(CPUX86State *env, hwaddr address);
bool nsvm_fault_loses(uint32_t exit_code);
bool nsvm_fault_encoding(CPUX86State *env, uint32_t exit_code, uintptr_t retaddr);
void nsvm_fault_exit(CPUX86State *env, uint64_t *exit_code, uint64_t *exit_info_1);
void nsvm_fault_guest(CPUX86State *env);
void nsvm_fault_virq(CPUX86State *env);
void nsvm_fault_cr8(CPUX86State *env);
void nsvm_fault_saved(CPUX86State *env);
void nsvm_fault_left(CPUX86State *env);
int nsvm_fault_nested_rights(CPUX86State *env, uint64_t cr3);
void nsvm_fault_vmsave(CPUX86State *env, hwaddr address, int mmu_index);

void nsvm_fault_nrip(CPUX86State *env, uint64_t exit_code, bool is_instruction, uint32_t *length);
void nsvm_fault_nrip_saved(CPUX86State *env, uint64_t exit_code, bool is_instruction);
bool nsvm_fault_nrip_stays(uint64_t exit_code, bool is_instruction);
bool nsvm_fault_inject_at_rip(CPUX86State *env);
void nsvm_fault_decode_bytes(uint8_t field[]);
bool nsvm_fault_decode_has_none(uint64_t exit_code, uint64_t error_code);
uint32_t nsvm_fault_decode_insn(uint64_t exit_code, uint32_t insn);
bool nsvm_fault_lbr_keeps_debugctl(bool of_guest);
bool nsvm_fault_lbr_control(uint64_t control);
uint64_t nsvm_fault_clean_key(uint64_t key);
uint32_t nsvm_fault_clean_bits(uint32_t keep);
bool nsvm_fault_clean_trusts(unsigned offset, uint32_t keep);
uint8_t nsvm_fault_tlb_control(uint8_t control);
uint32_t nsvm_fault_invlpga_asid(CPUX86State *env, uint32_t asid);
uint64_t nsvm_fault_tsc_ratio(uint64_t ratio);
uint64_t nsvm_fault_tsc(CPUX86State *env, uint64_t counter, uint64_t scaled);
bool nsvm_fault_svm_key_fits(uint64_t value, bool fits, uint64_t key);
uint16_t nsvm_fault_io_bits(uint16_t map);
uint32_t nsvm_fault_io_size(uint32_t bits);
uint32_t nsvm_fault_io_info(uint32_t info);
uint32_t nsvm_fault_msr(uint32_t msr);

/* Where a field of the VMCB or of the host's state is loaded from. */
static inline hwaddr nsvm_fault_source(CPUX86State *env, hwaddr address)
{
    return nsvm_fault_active() ? nsvm_fault_source_slow(env, address) : address;
}

/* Whether a store into the VMCB does not happen. */
static inline bool nsvm_fault_drops(CPUX86State *env, hwaddr address)
{
    return nsvm_fault_active() && nsvm_fault_drops_slow(env, address);
}
#endif

#endif
