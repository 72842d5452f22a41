"""Consistency checks on guest state: control registers, EFER, debug registers, segments, RFLAGS (APM2 15.5.1)."""

from __future__ import annotations

from harness.svm import registers as r
from harness.svm.paging import pdpe_reserved_mask
from harness.svm.registers import CR0 as CR0_BITS
from harness.svm.rule import ALL_64, Registry, Ruling, State, adds_to, broken_if

STATE_RULES: Registry = []
rule = adds_to(STATE_RULES)

UPPER = ALL_64 & ~0xFFFF_FFFF
_CR0_NAMED = sum(run.mask for run in CR0_BITS)
_RFLAGS_MUST_BE_ZERO = ALL_64 & ~0x3F_FFFF | 1 << 15 | 1 << 5 | 1 << 3


@rule("efer_svme_clear", "EFER.SVME is 0")
def _efer_svme(s: State) -> Ruling:
    return broken_if(not s["efer"] & r.EFER_SVME)


@rule("efer_lme_without_lm", "EFER.LME or EFER.LMA is 1 on a CPU without long mode")
def _efer_lme(s: State) -> Ruling:
    return broken_if(s["efer"] & (r.EFER_LME | r.EFER_LMA) and not s.cpuid.has("LM"))


@rule("efer_nxe_without_nx", "EFER.NXE is 1 on a CPU without NX")
def _efer_nxe(s: State) -> Ruling:
    return broken_if(s["efer"] & r.EFER_NXE and not s.cpuid.has("NX"))


@rule("efer_reserved", "a bit of EFER is 1 that must be 0 or that the CPU does not implement", "15.5.1; 3.1.7")
def _efer_reserved(s: State) -> Ruling:
    with_rules_of_their_own = r.EFER_LME | r.EFER_LMA | r.EFER_NXE
    stray = s["efer"] & ~(s.cpuid.efer_legal_mask() | with_rules_of_their_own)
    # 7:1 are RAZ rather than MBZ; LMSLE has no CPUID bit that says it is there, only one that says it is not.
    return broken_if(stray & ~r.EFER_RAZ, stray or s["efer"] & r.EFER_LMSLE)


@rule("efer_lma_mismatch", "EFER.LMA is not LME and CR0.PG")
def _efer_lma(s: State) -> Ruling:
    return broken_if(False, unsure=bool(s["efer"] & r.EFER_LMA) != s.lme_and_paging)


@rule("cr0_cd0_nw1", "CR0.CD is 0 and CR0.NW is 1")
def _cr0_cd_nw(s: State) -> Ruling:
    return broken_if(s["cr0"] & (r.CR0_CD | r.CR0_NW) == r.CR0_NW)


@rule("cr0_upper", "CR0[63:32] is not 0")
def _cr0_upper(s: State) -> Ruling:
    return broken_if(s["cr0"] & UPPER)


@rule("cr0_reserved", "a reserved bit in CR0[31:0] is 1")
def _cr0_reserved(s: State) -> Ruling:
    return broken_if(False, unsure=s["cr0"] & ~_CR0_NAMED & ~UPPER)


@rule("cr3_upper", "a bit of CR3 at or above the physical address width is 1")
def _cr3_upper(s: State) -> Ruling:
    # Outside long mode CR3 has 32 bits; whether its upper half is MBZ or ignored is not written anywhere.
    in_long_mode = s.lme_and_paging and s["cr4"] & r.CR4_PAE
    return broken_if(in_long_mode and s["cr3"] & s.above_physical, unsure=not in_long_mode and s["cr3"] & UPPER)


@rule("cr4_upper", "CR4[63:32] is not 0")
def _cr4_upper(s: State) -> Ruling:
    return broken_if(s["cr4"] & UPPER)


@rule("cr4_reserved", "a bit in CR4[31:0] is 1 that is reserved or that the CPU does not implement")
def _cr4_reserved(s: State) -> Ruling:
    return broken_if(s["cr4"] & ~UPPER & ~s.cpuid.cr4_legal_mask())


@rule("pcide_without_long_mode", "CR4.PCIDE is 1 outside long mode", "15.5.1; 5.5.1")
def _pcide(s: State) -> Ruling:
    return broken_if(False, unsure=s["cr4"] & r.CR4_PCIDE and not s.lme_and_paging)


@rule("cet_without_wp", "CR4.CET is 1 and CR0.WP is 0")
def _cet_wp(s: State) -> Ruling:
    return broken_if(s.cpuid.has("CET_SS") and s["cr4"] & r.CR4_CET and not s["cr0"] & r.CR0_WP)


@rule("s_cet_reserved", "a reserved bit of S_CET is 1")
def _s_cet(s: State) -> Ruling:
    return broken_if(s.cpuid.has("CET_SS") and s["s_cet"] & ~sum(run.mask for run in r.S_CET))


@rule("dr6_upper", "DR6[63:32] is not 0")
def _dr6(s: State) -> Ruling:
    return broken_if(s["dr6"] & UPPER)


@rule("dr7_upper", "DR7[63:32] is not 0")
def _dr7(s: State) -> Ruling:
    return broken_if(s["dr7"] & UPPER)


@rule("long_mode_without_pae", "EFER.LME and CR0.PG are 1 and CR4.PAE is 0")
def _without_pae(s: State) -> Ruling:
    return broken_if(s.lme_and_paging and not s["cr4"] & r.CR4_PAE)


@rule("long_mode_without_pe", "EFER.LME, CR0.PG and CR4.PAE are 1 and CR0.PE is 0")
def _without_pe(s: State) -> Ruling:
    return broken_if(s.lme_and_paging and s["cr4"] & r.CR4_PAE and not s["cr0"] & r.CR0_PE)


@rule("cs_l_and_d", "EFER.LME, CR0.PG, CR4.PAE, CS.L and CS.D are all 1")
def _cs_l_and_d(s: State) -> Ruling:
    both = r.ATTRIB_L | r.ATTRIB_DB
    set_both = s["cs.attrib"] & both == both
    return broken_if(set_both and s.lme_and_paging and s["cr4"] & r.CR4_PAE, unsure=set_both)


@rule("pae_pdpe", "a legacy PAE page-directory-pointer entry has a reserved bit set, without nested paging")
def _pae_pdpe(s: State) -> Ruling:
    legacy_pae = s.paging and s["cr4"] & r.CR4_PAE and not s["efer"] & r.EFER_LME
    if not legacy_pae or s.nested_paging or s.pdpes is None:
        return Ruling.KEPT
    bad = [entry for entry in s.pdpes if entry & pdpe_reserved_mask(s.cpuid.maxphyaddr)]
    return broken_if(False, unsure=bad)  # APM2 15.5.1 says that VMRUN refuses, 5.5.3 that L2 takes #PF at use


@rule("rflags_reserved", "a reserved bit of RFLAGS is 1, or bit 1 is 0")
def _rflags(s: State) -> Ruling:
    return broken_if(False, unsure=s["rflags"] & _RFLAGS_MUST_BE_ZERO or not s["rflags"] & r.RFLAGS_FIXED)


@rule("rflags_vm_in_long_mode", "RFLAGS.VM is 1 in long mode")
def _rflags_vm(s: State) -> Ruling:
    return broken_if(False, unsure=s["rflags"] & r.RFLAGS_VM and s.lme_and_paging)
