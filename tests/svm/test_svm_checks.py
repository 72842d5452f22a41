"""VMRUN's consistency rules: each has a VMCB that breaks it alone, and a legal neighbour one step away."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.svm import (
    CHECKS,
    FIELDS,
    Event,
    broken_rules,
    inject_exception,
    inject_interrupt,
    inject_software,
    make_cpuid,
    make_template,
    vmcb_address_is_legal,
)
from harness.svm import registers as r
from harness.svm.features import FEATURES

PLACES = {"rip": 0x8000, "rsp": 0x9000, "cr3": 0x1_0000, "iopm_pa": 0x2_0000, "msrpm_pa": 0x3_0000, "n_cr3": 0x4_0000}
EVERYTHING = [item.name for item in FEATURES.values() if item.infer is None and not item.name.startswith("reserved")]
NO_FEATURES = ("NP",)
LIMIT = 1 << 48  # MAXPHYADDR of the made-up CPUs


@dataclass
class Case:
    """`bad` fields (over the template of `mode`) break `rule` alone; `good` ones, over the same, break nothing."""

    rule: str
    bad: dict
    good: dict = field(default_factory=dict)
    mode: str = "long64"
    np: bool = False
    features: tuple = NO_FEATURES
    without: tuple = ()  # basics that the CPU lacks
    host: dict = field(default_factory=dict)  # arguments of broken_rules for the bad one
    good_host: dict = field(default_factory=dict)
    certain: bool = True
    name: str = ""

    def cpuid(self):
        basics = [name for name in ("PAE", "SYSCALL", "NX", "LM", "SVM") if name not in self.without]
        return make_cpuid([*basics, *self.features], basics=False)

    def vmcb(self, fields):
        vmcb = make_template(self.mode, **PLACES, np=self.np)
        vmcb.update(fields)
        return vmcb


LM = r.EFER_LME | r.EFER_LMA
SVME = r.EFER_SVME
CR0 = r.CR0_PE | r.CR0_ET | r.CR0_NE
PAGED = CR0 | r.CR0_PG
BOTH = r.ATTRIB_L | r.ATTRIB_DB
BAD_PDPE = (0x1001, 0x2003, 0x3001, 0x4001)
GOOD_PDPE = (0x1001, 0x2001, 0, 0x4001 | r.CR0_PE)

MAPS = {"intercept_misc1": 1 << 27 | 1 << 28}  # IOIO_PROT and MSR_PROT

CASES = [
    Case("efer_svme_clear", {"efer": LM}, {"efer": LM | SVME}),
    Case("efer_lme_without_lm", {"efer": SVME | r.EFER_LME}, {"efer": SVME}, mode="prot32", without=("LM",),
         name="LME on a CPU without long mode"),
    Case("efer_nxe_without_nx", {"efer": LM | SVME | r.EFER_NXE}, without=("NX",)),
    Case("efer_reserved", {"efer": LM | SVME | 1 << 9}, {"efer": LM | SVME | r.EFER_NXE}, name="bit 9"),
    Case("efer_reserved", {"efer": LM | SVME | 1 << 22}, {"efer": LM | SVME | 1 << 21}, features=("AIBRS",)),
    Case("efer_reserved", {"efer": LM | SVME | 1 << 63}, name="bit 63"),
    Case("efer_reserved", {"efer": LM | SVME | r.EFER_FFXSR}, name="FFXSR not offered"),
    Case("efer_reserved", {"efer": LM | SVME | r.EFER_LMSLE}, features=("EferLmsleUnsupported",), name="no LMSLE"),
    Case("efer_reserved", {"efer": LM | SVME | r.EFER_LMSLE}, certain=False, name="LMSLE only inferred"),
    Case("efer_reserved", {"efer": LM | SVME | 1 << 3}, certain=False, name="RAZ bit"),
    Case("efer_lma_mismatch", {"efer": SVME | r.EFER_LME}, certain=False, name="LMA 0"),
    Case("efer_lma_mismatch", {"efer": SVME | r.EFER_LMA}, {"efer": SVME}, mode="prot32", certain=False),
    Case("cr0_cd0_nw1", {"cr0": PAGED | r.CR0_NW}, {"cr0": PAGED | r.CR0_NW | r.CR0_CD}),
    Case("cr0_upper", {"cr0": PAGED | 1 << 32}, {"cr0": PAGED | r.CR0_WP | r.CR0_AM | r.CR0_CD}),
    Case("cr0_upper", {"cr0": PAGED | 1 << 63}),
    Case("cr0_reserved", {"cr0": PAGED | 1 << 6}, certain=False),
    Case("cr3_upper", {"cr3": LIMIT}, {"cr3": LIMIT - 0x1000}),
    Case("cr3_upper", {"cr3": 1 << 63}, {"cr3": 0x1_0FFF}),
    Case("cr3_upper", {"cr3": 1 << 32}, {"cr3": 0xFFFF_FFFF}, mode="pae32", certain=False),
    Case("cr3_upper", {"cr3": 1 << 40}, mode="prot32", certain=False),
    Case("cr4_upper", {"cr4": r.CR4_PAE | 1 << 32}, {"cr4": r.CR4_PAE | 0x7FF}),
    Case("cr4_upper", {"cr4": r.CR4_PAE | 1 << 63}),
    Case("cr4_reserved", {"cr4": r.CR4_PAE | r.CR4_VMXE}, name="VMXE"),
    Case("cr4_reserved", {"cr4": r.CR4_PAE | r.CR4_SMEP}, name="SMEP not offered"),
    Case("cr4_reserved", {"cr4": r.CR4_PAE | 1 << 19}, {"cr4": r.CR4_PAE | r.CR4_SMEP}, features=("SMEP",)),
    Case("pcide_without_long_mode", {"cr4": r.CR4_PCIDE}, mode="prot32", features=("PCID",), certain=False),
    Case("cet_without_wp", {"cr4": r.CR4_PAE | r.CR4_CET}, {"cr4": r.CR4_PAE | r.CR4_CET, "cr0": PAGED | r.CR0_WP},
         features=("CET_SS",)),
    Case("s_cet_reserved", {"s_cet": 1 << 2}, {"s_cet": 3}, features=("CET_SS",)),
    Case("dr6_upper", {"dr6": r.DR6_RESET | 1 << 32}, {"dr6": 0xFFFF_FFFF}),
    Case("dr6_upper", {"dr6": r.DR6_RESET | 1 << 63}, {"dr6": 0}),
    Case("dr7_upper", {"dr7": r.DR7_RESET | 1 << 32}, {"dr7": 0xFFFF_FFFF}),
    Case("dr7_upper", {"dr7": r.DR7_RESET | 1 << 63}, {"dr7": 0}),
    Case("long_mode_without_pae", {"cr4": 0}, {"cr4": 0, "cr0": CR0, "efer": SVME | r.EFER_LME}),
    Case("long_mode_without_pe", {"cr0": PAGED & ~r.CR0_PE}, {"cr0": PAGED & ~r.CR0_PE, "efer": SVME},
         name="paged real mode is legal"),
    Case("cs_l_and_d", {"cs.attrib": 0x29B | BOTH}, {"cs.attrib": 0x29B}),
    Case("cs_l_and_d", {"cs.attrib": 0xA9B | BOTH}, {"cs.attrib": 0xA9B & ~r.ATTRIB_L | r.ATTRIB_DB}),
    Case("cs_l_and_d", {"cs.attrib": 0xA9B | BOTH, "efer": SVME}, certain=False, name="outside long mode"),
    Case("pae_pdpe", {}, mode="pae32", host={"pdpes": BAD_PDPE}, good_host={"pdpes": GOOD_PDPE}, certain=False),
    Case("pae_pdpe", {}, mode="pae32", host={"pdpes": (1 << 48 | 1, 0, 0, 0)}, good_host={"pdpes": (1 << 47 | 1,)},
         certain=False),
    Case("pae_pdpe", {}, mode="pae32", host={"pdpes": (0x1E6, 0, 0, 0)}, good_host={}, certain=False,
         name="entry not present"),
    Case("rflags_reserved", {"rflags": 0}, certain=False, name="bit 1 clear"),
    Case("rflags_reserved", {"rflags": 2 | 1 << 22}, {"rflags": 2 | 1 << 21}, certain=False),
    Case("rflags_vm_in_long_mode", {"rflags": 2 | r.RFLAGS_VM}, certain=False),
    Case("vmrun_intercept_clear", {"intercept_misc2": 2}, {"intercept_misc2": 1}),
    Case("msrpm_range", MAPS | {"msrpm_base_pa": LIMIT - 0x1000}, MAPS | {"msrpm_base_pa": LIMIT - 0x3000}),
    Case("msrpm_range", MAPS | {"msrpm_base_pa": LIMIT}, {"msrpm_base_pa": 0x3_0FFF}, name="low bits are ignored"),
    Case("msrpm_range", {"msrpm_base_pa": LIMIT}, certain=False, name="not intercepted"),
    Case("msrpm_range", {"msrpm_base_pa": LIMIT - 0x2000}, certain=False, name="ends exactly at the limit"),
    Case("iopm_range", MAPS | {"iopm_base_pa": LIMIT - 0x2000}, MAPS | {"iopm_base_pa": LIMIT - 0x3000}),
    Case("iopm_range", MAPS | {"iopm_base_pa": 1 << 63}, {"iopm_base_pa": LIMIT - 0x2001}),
    Case("iopm_range", {"iopm_base_pa": 1 << 63}, certain=False, name="not intercepted"),
    Case("asid_zero", {"asid": 0}, {"asid": 15}),
    Case("asid_beyond_nasid", {"asid": 16}, certain=False),
    Case("tlb_control_reserved", {"tlb_control": 2}, {"tlb_control": 1}, certain=False),
    Case("tlb_control_reserved", {"tlb_control": 5}, {"tlb_control": 7}, features=("FlushByAsid",), certain=False),
    *(Case("eventinj_type", {"eventinj": Event(t, 13).pack()}, {"eventinj": Event(t, 13, valid=False).pack()})
      for t in (1, 5, 6, 7)),
    *(Case("eventinj_vector", {"eventinj": inject_exception(v)}, {"eventinj": inject_interrupt(v)}, name=f"{v}")
      for v in (2, 15, 32, 255)),
    *(Case("eventinj_vector", {"eventinj": inject_exception(v)}, {"eventinj": inject_software(v)}, certain=False,
           name=f"{v}") for v in (9, 20, 21, 22, 27, 28, 29, 31)),
    Case("eventinj_impossible_in_mode", {"eventinj": inject_exception("#BR")},
         {"eventinj": inject_exception("#BR"), "cs.attrib": 0xC9B}),
    Case("eventinj_impossible_in_mode", {"eventinj": inject_exception("#OF")}, certain=False),
    Case("eventinj_reserved", {"eventinj": inject_exception(13, 0) | 1 << 12}, {"eventinj": 1 << 12}, certain=False),
    Case("np_without_host_paging", {}, np=True, host={"host_paging": False}),
    Case("np_ncr3", {"n_cr3": LIMIT}, {"n_cr3": LIMIT - 0x1000}, np=True),
    Case("np_ncr3", {"n_cr3": 0x4_0001}, {"n_cr3": 0x4_0018}, np=True, certain=False, name="low bits"),
    Case("np_ncr3", {"n_cr3": 1 << 32}, {"n_cr3": 0xFFFF_F000}, np=True, host={"host_long_mode": False},
         certain=False, name="32-bit host"),
    *(Case("np_gpat", {"g_pat": 0x0007_0406_0007_0406 & ~0xFF | t}, {"g_pat": 0x0706_0504_0100_0606}, np=True)
      for t in (2, 3, 8, 0xFF)),
    Case("vnmi_without_nmi_intercept", {"v_nmi_enable": 1}, {"v_nmi_enable": 1, "intercept_misc1": 2},
         features=("VNMI",)),
    Case("sss_without_np", {"sss_check_enable": 1}, {"sss_check_enable": 1, "np_enable": 1},
         features=("NP", "SSSCheck")),
    Case("x2avic_without_avic", {"x2avic_enable": 1}, {"x2avic_enable": 1, "avic_enable": 1},
         features=("AVIC", "x2AVIC"), certain=False),
    *(Case("control_unadvertised", {name: 1}, certain=False, name=name)
      for name in ("avic_enable", "v_gif_enable", "v_nmi_enable", "sev_enable", "gmet_enable", "virt_vmload_vmsave")),
    Case("control_unadvertised", {"np_enable": 1, "n_cr3": 1 << 63, "g_pat": 0}, features=(), certain=False,
         name="NP not offered"),
    Case("control_reserved", {"np_control": 1 << 63}, {"host_reserved": 1}, certain=False),
    Case("control_reserved", {"vintr": 1 << 10}, certain=False),
    Case("control_reserved", {"int_state": 4}, {"int_state": 1}, certain=False),
]  # fmt: skip

IDS = [f"{case.rule}-{number}{'-' + case.name if case.name else ''}" for number, case in enumerate(CASES)]


def found(case, fields, host):
    return [(rule.id, rule.certain) for rule in broken_rules(case.vmcb(fields), case.cpuid(), **host)]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_breaks_this_rule_alone(case):
    assert found(case, case.bad, case.host) == [(case.rule, case.certain)]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_legal_neighbour(case):
    assert found(case, case.good, case.good_host) == []


def test_every_rule_has_a_case():
    assert {check.id for check in CHECKS} == {case.rule for case in CASES}


def test_every_rule_that_can_be_certain_has_a_certain_case():
    never = {
        "efer_lma_mismatch", "cr0_reserved", "pcide_without_long_mode", "rflags_reserved", "rflags_vm_in_long_mode",
        "asid_beyond_nasid", "tlb_control_reserved", "eventinj_reserved", "x2avic_without_avic",
        "control_unadvertised", "control_reserved", "pae_pdpe",
    }  # fmt: skip

    assert {case.rule for case in CASES if case.certain} == {check.id for check in CHECKS} - never


def test_clause_ids():
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.clause == f"core.checks.{check.id}"
        assert check.apm and check.text


@pytest.mark.parametrize(
    ("fields", "features"),
    [
        ({"cr3": 0xFFF}, ()),  # low bits are ignored
        ({"cr3": 0x1_0FFF, "cr4": r.CR4_PAE | r.CR4_PCIDE}, ("PCID",)),  # any PCID
        ({"rip": 1 << 63}, ()),  # not canonical: #GP in L2, not refused
        ({"es.base": 1 << 62, "gdtr.base": 1 << 62, "idtr.base": 1 << 62}, ()),
        ({"ss.attrib": 0, "ds.attrib": 0x98, "cs.attrib": r.ATTRIB_L}, ()),  # attributes no descriptor could have
        ({"cpl": 3}, ()),  # DPL and RPL are not compared with it
        ({"dr6": 0xFFFF_FFFF, "dr7": 0xFFFF_FFFF}, ()),
        ({"g_pat": 0xFFFF_FFFF_FFFF_FFFF}, ("NP",)),  # not looked at without NP_ENABLE
        ({"virt_ext": 1}, ()),  # LbrVirt not offered: ignored
        ({"intercept_misc1": 0, "intercept_exceptions": 0, "intercept_misc2": 1}, ()),
    ],
)
def test_what_is_not_checked(fields, features):
    vmcb = make_template("long64", **PLACES)
    vmcb.update(fields)

    assert broken_rules(vmcb, make_cpuid(features)) == []


def test_every_vector_of_an_injected_exception():
    refused = {2, 15, *range(32, 256)}
    undecided = {4, 9, 20, 21, *range(22, 30), 31}  # 4 and 5 because the guest is in 64-bit mode

    for vector in range(256):
        vmcb = make_template("long64", **PLACES)
        vmcb["eventinj"] = inject_exception(vector)
        certain = {rule.certain for rule in broken_rules(vmcb, make_cpuid())}
        assert certain == ({True} if vector in refused | {5} else {False} if vector in undecided else set()), vector


@pytest.mark.parametrize(("features", "defined"), [((), {0, 1}), (("FlushByAsid",), {0, 1, 3, 7})])
def test_every_tlb_control_value(features, defined):
    for value in range(256):
        vmcb = make_template("long64", **PLACES)
        vmcb["tlb_control"] = value
        assert bool(broken_rules(vmcb, make_cpuid(features))) == (value not in defined)


def test_bad_pdpe_does_not_matter_with_nested_paging():
    vmcb = make_template("pae32", **PLACES, np=True)

    assert broken_rules(vmcb, make_cpuid(["NP"]), pdpes=BAD_PDPE) == []


def test_several_rules_at_once():
    vmcb = make_template("long64", **PLACES)
    vmcb.update({"asid": 0, "efer": 0, "intercept_misc2": 0})

    assert {rule.id for rule in broken_rules(vmcb, make_cpuid())} == {
        "asid_zero", "efer_svme_clear", "vmrun_intercept_clear",
    }  # fmt: skip


def test_a_rule_reads_well():
    vmcb = make_template("long64", **PLACES)
    vmcb["asid"] = 0

    [rule] = broken_rules(vmcb, make_cpuid())

    assert str(rule) == "core.checks.asid_zero: the guest's ASID is 0 (APM2 15.5.1; 15.25.1)"


# Bits whose flip alone must make a legal 64-bit VMCB illegal, on a CPU with no optional feature.
FATAL = (
    {("efer", n) for n in (9, 12, 14, 15, 16, 17, 18, 19, 20, 21, *range(22, 64))}
    | {("cr0", 0), ("cr0", 29)}
    | {("cr0", n) for n in range(32, 64)}
    | {("cr3", n) for n in range(48, 64)}
    | {("cr4", n) for n in (5, *range(11, 64))}
    | {("dr6", n) for n in range(32, 64)}
    | {("dr7", n) for n in range(32, 64)}
    | {("asid", 0), ("intercept_misc2", 0), ("cs.attrib", 10)}
    | {("iopm_base_pa", n) for n in range(48, 64)}
    | {("msrpm_base_pa", n) for n in range(48, 64)}
)


def test_every_single_bit_flip_is_judged_as_the_apm_says():
    cpuid = make_cpuid()
    wholes = [item for item in FIELDS if item.parent is None and not 0x3E0 <= item.offset < 0x400]
    fatal = set()
    for item in wholes:
        for number in range(item.bit_width):
            vmcb = make_template("long64", **PLACES)
            vmcb.update(MAPS)
            vmcb[item.name] ^= 1 << number
            if any(rule.certain for rule in broken_rules(vmcb, cpuid)):
                fatal.add((item.name, number))

    assert fatal == FATAL


@settings(max_examples=300)
@given(st.sampled_from([item.name for item in FIELDS]), st.data())
def test_never_fails_whatever_the_vmcb_holds(name, data):
    vmcb = make_template(data.draw(st.sampled_from(["long64", "pae32", "real16"])), **PLACES)
    item = next(item for item in FIELDS if item.name == name)
    vmcb[name] = data.draw(st.integers(0, item.max))
    before = bytes(vmcb)

    for features in ((), EVERYTHING):
        for rule in broken_rules(vmcb, make_cpuid(features)):
            assert rule.clause.startswith("core.checks.")

    assert bytes(vmcb) == before


def test_the_more_a_cpu_offers_the_fewer_register_bits_are_refused():
    vmcb = make_template("long64", **PLACES)
    vmcb["cr0"] |= r.CR0_WP
    for name, mask in (("cr4", make_cpuid(EVERYTHING).cr4_legal_mask()),):
        vmcb[name] = mask

    assert broken_rules(vmcb, make_cpuid(EVERYTHING)) == []
    assert [rule.id for rule in broken_rules(vmcb, make_cpuid())] == ["cr4_reserved"]


@pytest.mark.parametrize(
    ("rax", "legal"),
    [
        (0x1000, True),
        (0x1001, False),
        (0x1800, False),
        (LIMIT - 0x1000, True),
        (LIMIT, False),
        (0, True),
        (1 << 63, False),
    ],
)
def test_vmcb_address(rax, legal):
    assert vmcb_address_is_legal(rax, make_cpuid()) is legal
