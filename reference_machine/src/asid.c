/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Address space identifiers (APM2 15.16, 5.5): translations of a guest and of its host stay in the TLB side by side.
 *
 * QEMU has a TLB for each MMU index. The host's are those of stock QEMU; a guest's virtual addresses have the same
 * six once more (NSVM_MMU_GUEST), and its physical ones have MMU_NESTED_IDX. They belong to one ASID at a time, the
 * owner: VMRUN with another ASID empties them. So what a hypervisor forgets to flush under one ASID shows, what it
 * forgets to flush of an ASID that did not run last does not.
 *
 * Switching SVM off or on empties everything; the manual does not say whether a CPU does, and may always.
 *
 * TLB_CONTROL 7 and a guest's MOV CR3 leave global pages (CR4.PGE and the G bit of the guest's own tables). Nested
 * translations go with TLB_CONTROL 1 and 3 only. A host's own MOV CR3 empties all of the host's, as in stock QEMU.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "exec/page-protection.h"
#include "exec/tlb-common.h"
#include "tcg/helper-tcg.h"

#define VIRTUAL_INDEXES 0x3f
#define HOST_INDEXES VIRTUAL_INDEXES
#define GUEST_INDEXES (VIRTUAL_INDEXES << NSVM_MMU_GUEST)
#define NESTED_INDEX (1 << MMU_NESTED_IDX)

#define TLB_CONTROL_FLUSH_ASID 3
#define TLB_CONTROL_FLUSH_ASID_NON_GLOBAL 7

/* A walk through a TLB that is larger costs more than filling it again. */
#define MOST_ENTRIES_TO_WALK 4096

#define CR0_OF_TRANSLATION (CR0_PG_MASK | CR0_WP_MASK | CR0_PE_MASK)
#define CR4_OF_RIGHTS (CR4_SMEP_MASK | CR4_SMAP_MASK | CR4_LA57_MASK | CR4_PKE_MASK | CR4_PKS_MASK)
#define CR4_OF_TRANSLATION (CR4_PGE_MASK | CR4_PAE_MASK | CR4_PSE_MASK | CR4_PCIDE_MASK | CR4_OF_RIGHTS)
#define EFER_OF_TRANSLATION (MSR_EFER_NXE | MSR_EFER_LMA)

#define MSR_SYSCFG 0xc0010010
#define MSR_IORR_FIRST 0xc0010016
#define MSR_IORR_LAST 0xc0010019
#define MSR_TOP_MEM 0xc001001a
#define MSR_TOP_MEM2 0xc001001d

/* QEMU's TLB entries have room for a target's own, with Arm's names. */
#define IS_GLOBAL(entry) ((entry)->extra.arm.guarded)

static void flush(CPUX86State *env, uint16_t indexes)
{
    tlb_flush_by_mmuidx(env_cpu(env), indexes);
}

static bool is_empty(const CPUTLBEntry *entry)
{
    return entry->addr_read == -1 && entry->addr_write == -1 && entry->addr_code == -1;
}

static void drop_non_global(CPUTLBDesc *tlb, CPUTLBEntry *entries, const CPUTLBEntryFull *full, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!is_empty(&entries[i]) && !IS_GLOBAL(&full[i])) {
            memset(&entries[i], -1, sizeof(entries[i]));
            tlb->n_used_entries--;
        }
    }
}

static void flush_non_global(CPUX86State *env)
{
    CPUTLB *all = &env_cpu(env)->neg.tlb;
    uint16_t too_large = 0;

    qemu_spin_lock(&all->c.lock);
    for (uint16_t rest = GUEST_INDEXES & all->c.dirty; rest; rest &= rest - 1) {
        int index = ctz32(rest);
        CPUTLBDesc *tlb = &all->d[index];
        size_t count = (all->f[index].mask >> CPU_TLB_ENTRY_BITS) + 1;

        if (count > MOST_ENTRIES_TO_WALK) {
            too_large |= 1 << index;
        } else {
            drop_non_global(tlb, all->f[index].table, tlb->fulltlb, count);
            drop_non_global(tlb, tlb->vtable, tlb->vfulltlb, CPU_VTLB_SIZE);
        }
    }
    qemu_spin_unlock(&all->c.lock);
    flush(env, too_large); /* also empties the cache of translated blocks by virtual address */
}

/*
 * What QEMU's translations of a guest depend on, and real ones do not: a hypervisor may change it without a flush.
 * (CR0.PG, WP, CD, NW, CR3, CR4.PGE, PAE, PSE, EFER.NXE, LMA, LME and N_CR3 it may not: 15.16.)
 */
static bool guest_is_another(CPUX86State *env)
{
    uint32_t mode = env->hflags2 & HF2_NPT_MASK ? env->nested_pg_mode << 1 | 1 : 0;
    uint32_t cr4 = env->cr[4] & CR4_OF_RIGHTS;
    bool another = env->nsvm.asid.mode != mode || env->nsvm.asid.cr4 != cr4;

    env->nsvm.asid.mode = mode;
    env->nsvm.asid.cr4 = cr4;
    return another;
}

/* Before VMRUN's TLB_CONTROL 1, which QEMU does. Encodings that the CPU does not have do nothing (15.16.1). */
void nsvm_asid_vmrun(CPUX86State *env, uint32_t asid)
{
    uint8_t control = x86_ldub_phys(env_cpu(env), env->vm_vmcb + offsetof(struct vmcb, control.tlb_ctl));

    if (!nsvm_asids_are_kept(env)) {
        return; /* all is flushed at every VMRUN */
    }
    if ((guest_is_another(env) || env->nsvm.asid.owner != asid) && !nsvm_fault(NSVM_FAULT_ASID_NEW_ONE_KEEPS_OLD)) {
        flush(env, GUEST_INDEXES | NESTED_INDEX);
        env->nsvm.asid.owner = asid;
    }
    control = nsvm_fault_tlb_control(control);
    if (nsvm_has(env, CPUID_SVM_FLUSHASID)) {
        if (control == TLB_CONTROL_FLUSH_ASID) {
            flush(env, GUEST_INDEXES | (nsvm_fault(NSVM_FAULT_ASID_NESTED_STAY) ? 0 : NESTED_INDEX));
        } else if (control == TLB_CONTROL_FLUSH_ASID_NON_GLOBAL) {
            flush_non_global(env);
        }
    }
}

static void host_key(CPUX86State *env, uint64_t key[4])
{
    key[0] = env->cr[0] & CR0_OF_TRANSLATION;
    key[1] = env->cr[3];
    key[2] = env->cr[4] & CR4_OF_TRANSLATION;
    key[3] = env->efer & EFER_OF_TRANSLATION;
}

/* At VMRUN: what the host's translations were made with. */
void nsvm_asid_note_host(CPUX86State *env)
{
    host_key(env, env->nsvm.asid.host);
}

/* At #VMEXIT: they hold only if the same is loaded again. Another CPU can have written into the host save area. */
void nsvm_asid_check_host(CPUX86State *env)
{
    uint64_t now[4];

    nsvm_asid_switch(env, false);
    if (nsvm_asids_are_kept(env)) {
        host_key(env, now);
        if (memcmp(now, env->nsvm.asid.host, sizeof(now))) {
            flush(env, HOST_INDEXES);
        }
    }
}

void nsvm_asid_flush_all(CPUX86State *env)
{
    if (nsvm_asids_are_kept(env)) {
        tlb_flush(env_cpu(env));
    }
}

/* MOV to CR0 or CR4, or a task switch: all translations of the current ASID, which is 0 outside guests. */
void nsvm_asid_flush(CPUX86State *env)
{
    if (!nsvm_asids_are_kept(env)) {
        tlb_flush(env_cpu(env));
    } else if (!env->nsvm.asid.switching && !(nsvm_fault(NSVM_FAULT_ASID_MOV_CR0_CR4_KEEPS) && nsvm_in_guest(env))) {
        flush(env, nsvm_in_guest(env) ? GUEST_INDEXES : HOST_INDEXES);
    }
}

void nsvm_asid_flush_for_cr3(CPUX86State *env)
{
    if (nsvm_in_guest(env) && nsvm_asids_are_kept(env) && !env->nsvm.asid.switching) {
        if (!nsvm_fault(NSVM_FAULT_ASID_MOV_CR3_KEEPS)) {
            flush_non_global(env);
        }
    } else {
        nsvm_asid_flush(env);
    }
}

/* Before CR4 changes: bits for which stock QEMU does not flush, since a switch of worlds always did. */
void nsvm_asid_write_cr4(CPUX86State *env, uint32_t value)
{
    if (!nsvm_asids_are_kept(env)) {
        return;
    }
    if ((value ^ env->cr[4]) & (CR4_PKE_MASK | CR4_PKS_MASK | CR4_PCIDE_MASK)) {
        nsvm_asid_flush(env);
    }
    if (nsvm_in_guest(env) && !env->nsvm.asid.switching) {
        env->nsvm.asid.cr4 = value & CR4_OF_RIGHTS;
    }
}

/* INVLPG. */
void nsvm_asid_flush_page(CPUX86State *env, target_ulong address)
{
    if (nsvm_asids_are_kept(env)) {
        if (nsvm_fault(NSVM_FAULT_ASID_INVLPG_OF_HOST) && nsvm_in_guest(env)) {
            tlb_flush_page_by_mmuidx(env_cpu(env), address, HOST_INDEXES);
            return;
        }
        tlb_flush_page_by_mmuidx(env_cpu(env), address, nsvm_in_guest(env) ? GUEST_INDEXES : HOST_INDEXES);
    } else {
        tlb_flush_page(env_cpu(env), address);
    }
}

/* INVLPGA: the ASID in ECX. Of an ASID that is not the owner, and of one out of range, there is nothing to drop. */
void helper_nsvm_invlpga(CPUX86State *env, target_ulong address)
{
    uint32_t asid = nsvm_fault_invlpga_asid(env, env->regs[R_ECX]);

    if (nsvm_fault(NSVM_FAULT_ASID_INVLPGA_OF_NEXT_PAGE)) {
        address += TARGET_PAGE_SIZE;
    }
    if (!nsvm_asids_are_kept(env)) {
        tlb_flush_page(env_cpu(env), address);
    } else if (asid == 0) {
        tlb_flush_page_by_mmuidx(env_cpu(env), address, HOST_INDEXES);
    } else if (asid == env->nsvm.asid.owner) {
        tlb_flush_page_by_mmuidx(env_cpu(env), address, GUEST_INDEXES);
    }
}

/* MSRs that change what memory is where, or what a page table entry means: the translations of all ASIDs go. */
void nsvm_asid_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value)
{
    switch (msr) {
    case MSR_MTRRphysBase(0) ... MSR_MTRRphysMask(7):
    case MSR_MTRRfix64K_00000:
    case MSR_MTRRfix16K_80000 ... MSR_MTRRfix16K_A0000:
    case MSR_MTRRfix4K_C0000 ... MSR_MTRRfix4K_F8000:
    case MSR_MTRRdefType:
    case MSR_SYSCFG:
    case MSR_IORR_FIRST ... MSR_IORR_LAST:
    case MSR_TOP_MEM:
    case MSR_TOP_MEM2:
        nsvm_asid_flush_all(env);
        break;
    case MSR_EFER:
        if ((value ^ env->efer) & (MSR_EFER_NXE | MSR_EFER_SVME)) {
            nsvm_asid_flush_all(env);
        }
        break;
    }
}

/* A new translation, with what the walk has found of the G bit. */
void nsvm_asid_set_page(CPUX86State *env, vaddr address, hwaddr physical, int prot, int mmu_idx, int size_bytes)
{
    CPUTLBEntryFull full = {
        .phys_addr = physical,
        .attrs = cpu_get_mem_attrs(env),
        .prot = prot,
        .lg_page_size = ctz64(size_bytes),
    };

    IS_GLOBAL(&full) = env->nsvm.asid.walk_is_global;
    tlb_set_page_full(env_cpu(env), mmu_idx, address, &full);
}
