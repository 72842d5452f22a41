/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DecodeAssists (APM2 15.8): EXITINFO1 of MOV CR, MOV DR, INTn and INVLPG, and the bytes of the instruction at
 * VMCB 0D0h for #PF and #NPF of a data access.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "tcg/helper-tcg.h"

#define EXITINFO1_IS_MOV_CR (1ULL << 63)

/*
 * Reads at CS:RIP up to 15 bytes, as a fetch would: fewer where the fetch would fault (15.8.4) or go beyond the CS
 * limit. Memory that is no RAM is not read: a device would see it. Returns how many there are.
 */
int nsvm_decode_fetch(CPUX86State *env, uint8_t *bytes)
{
    bool in_64_bit_mode = env->hflags & HF_CS64_MASK;
    int mmu_index = cpu_mmu_index(env_cpu(env), true);
    const uint8_t *host = NULL;
    int count;

    for (count = 0; count < NSVM_DECODE_BYTES; count++) {
        target_ulong address = env->eip + count;

        if (!in_64_bit_mode) {
            if (address > env->segs[R_CS].limit) {
                break;
            }
            address = (uint32_t)((nsvm_fault(NSVM_FAULT_DECODE_BYTES_WITHOUT_CS_BASE) ? 0 : env->segs[R_CS].base)
                                 + address);
        }
        if (!host || !(address & ~TARGET_PAGE_MASK)) {
            void *page = NULL;
            int flags = probe_access_flags(env, address, 0, MMU_INST_FETCH, mmu_index, true, &page, 0);

            if ((flags & TLB_INVALID_MASK) || !page) {
                break;
            }
            host = page;
        }
        bytes[count] = *host++;
    }
    return count;
}

/* Only as many bytes are written as there are. */
static void store_bytes(CPUX86State *env)
{
    MemTxAttrs attributes = cpu_get_mem_attrs(env);
    uint8_t field[1 + NSVM_DECODE_BYTES];

    field[0] = nsvm_decode_fetch(env, &field[1]);
    nsvm_fault_decode_bytes(field);
    address_space_write(cpu_addressspace(env_cpu(env), attributes), env->vm_vmcb + NSVM_VMCB_BYTE_COUNT, attributes,
                        field, 1 + field[0]);
}

/* At an exit, with the guest's state as it will be saved. Returns EXITINFO1. */
uint64_t nsvm_decode_exit(CPUX86State *env, uint64_t exit_code, uint64_t exit_info_1, uintptr_t retaddr)
{
    uint32_t insn = retaddr ? env->nsvm.core.insn : 0;

    if (!nsvm_has(env, CPUID_SVM_DECODEASSIST) || exit_code == SVM_EXIT_ERR) {
        return exit_info_1;
    }
    if ((exit_code == SVM_EXIT_EXCP_BASE + EXCP0E_PAGE || exit_code == SVM_EXIT_NPF)
        && (!env->nsvm.decode.is_fetch || nsvm_fault(NSVM_FAULT_DECODE_BYTES_OF_FETCHES))
        && !nsvm_fault_decode_has_none(exit_code, exit_info_1)) {
        store_bytes(env);
        return exit_info_1;
    }
    if (!nsvm_fault(NSVM_FAULT_DECODE_COUNT_STALE)) {
        nsvm_vmcb_stb(env, NSVM_VMCB_BYTE_COUNT, 0);
    }
    insn = nsvm_fault_decode_insn(exit_code, insn);
    switch (exit_code) {
    case SVM_EXIT_CR0_SEL_WRITE: /* not named by the manual; KVM looks for it there too */
    case SVM_EXIT_READ_CR0 ... SVM_EXIT_WRITE_CR0 + 15: /* CLTS, LMSW and SMSW have these codes too, and no GPR */
        return insn & NSVM_INSN_MOV_CR_DR ? EXITINFO1_IS_MOV_CR | NSVM_INSN_GPR(insn) : exit_info_1;
    case SVM_EXIT_READ_DR0 ... SVM_EXIT_WRITE_DR0 + 15:
        return nsvm_fault(NSVM_FAULT_DECODE_DR_MISSING) ? 0 : NSVM_INSN_GPR(insn);
    case SVM_EXIT_SWINT:
        return nsvm_fault(NSVM_FAULT_DECODE_VECTOR_MISSING) ? 0 : env->nsvm.decode.vector;
    case SVM_EXIT_INVLPG:
        return nsvm_fault(NSVM_FAULT_DECODE_INVLPG_OF_PAGE) ? env->nsvm.decode.linear & TARGET_PAGE_MASK
               : nsvm_fault(NSVM_FAULT_DECODE_INVLPG_32_BIT) ? (uint32_t)env->nsvm.decode.linear
               : env->nsvm.decode.linear;
    default:
        return exit_info_1;
    }
}
