"""Each universal check can fail: one lie in a good exit is noticed by the check it is about, and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest import images
from harness.judge import consistency, universal
from harness.judge.clauses import load_clauses
from harness.judge.exit import Exit
from harness.scenario.steps import Fault, Phase, VmrunAnswer, VmrunResult
from harness.svm import CHECKS, SVM_BITS, VMEXIT, Vmcb, broken_rules, field, make_cpuid

GOOD = {"exitcode": VMEXIT.VMMCALL, "exitinfo1": 0, "exitinfo2": 0, "exitintinfo": 0, "eventinj": 0}
CPUID = make_cpuid(["NP", "LbrVirt"])
DEBUGCTL = "MSR_000001D9"
PAE = {name: images.vmcb_image("pae32")[name] for name in ("efer", "cr0", "cr3", "cr4", "cs.attrib")}
LOST = VmrunResult.PROBED | VmrunResult.PROBE_LOST


def event(vector, phase, *, rflags=2, dr6=0xFFFF_0FF0):
    return Fault(vector, phase, 0, None, 0x1000, 0, dr6, rflags, 0x1000, 8)


def exit_with(
    fields=None,
    *,
    before=None,
    result=VmrunResult.PROBED,
    host=None,
    code=b"\x0f\x01\xd9",
    vmsaved=False,
    events=(),
    clgi=True,
    vmcb_known=True,
):
    start = images.vmcb_image("long64")
    start.update(before or {})
    after = start.copy()
    after.update(GOOD | (fields or {}))
    answer = VmrunAnswer(result, 0, {}, list(events), [], host or {})
    made = Exit(start, Vmcb(after.data), answer, {}, vmsaved=vmsaved, vmcb_known=vmcb_known)
    return universal.judge(made, universal.Context(CPUID, code, clgi))


def failing(outcome):
    return {clause for clause, match in outcome.items() if not match}


def test_good_exit_is_judged_by_every_check_and_passes():
    outcome = exit_with()

    assert set(outcome) == set(universal.CHECKS) - {"core.exit.control_area_untouched_when_invalid"}
    assert failing(outcome) == set()


@pytest.mark.parametrize(
    ("clause", "lie"),
    [
        ("host_state_restored", {"host": {"CR3": (0x1000, 0x2000)}}),
        ("host_state_restored", {"host": {"RSP": (0x1000, 0x1008)}}),
        ("host_state_restored", {"host": {"RFLAGS": (0x2, 0x402)}}),
        ("host_state_restored", {"host": {"DR7": (0x400, 0x401)}}),
        ("host_state_restored", {"host": {"MSR_C0000082": (0, 0xA5)}}),
        ("gif_clear", {"result": VmrunResult.PROBED | VmrunResult.GIF_WAS_SET}),
        ("gif_clear", {"events": [event(0x61, Phase.VMRUN)]}),
        ("gif_clear", {"events": [event(0x61, Phase.GIF_PROBE)]}),
        ("gif_clear", {"events": [event(2, Phase.GIF_PROBE)]}),
        ("interrupt_held", {"result": LOST}),
        ("interrupt_held", {"result": VmrunResult.NONE}),
        ("clgi_held_until_vmrun", {"events": [event(0x61, Phase.BEFORE_VMRUN)]}),
        ("no_exception_in_l1", {"events": [event(13, Phase.GIF_PROBE)]}),
        ("no_exception_in_l1", {"events": [event(14, Phase.AFTER_STGI)]}),
        ("no_exception_in_l1", {"events": [event(3, Phase.VMRUN)]}),
        ("no_exception_in_l1", {"events": [event(1, Phase.VMRUN, dr6=0xFFFF_0FF1)]}),
        ("cr2_and_dr6", {"host": {"CR2": (1, 3)}, "fields": {"cr2": 2}}),
        ("cr2_and_dr6", {"host": {"DR6": (0xFFFF_0FF0, 0xFFFF_4FF0)}, "fields": {"dr6": 0xFFFF_0FF1}}),
        ("debugctl", {"host": {DEBUGCTL: (0, 1)}}),
        (
            "debugctl",
            {"host": {DEBUGCTL: (1, 0)}, "before": {"lbr_virt_enable": 1}, "code": b"\x0f\x30"},
        ),
        ("eventinj_v_clear", {"fields": {"eventinj": 0x8000_0310}}),
        ("exitintinfo_consistent", {"fields": {"exitintinfo": 0xA5A5_A5A5_A5A5_A5A5}}),
        ("exitintinfo_consistent", {"fields": {"exitintinfo": 0x8000_0100}}),
        ("exitintinfo_consistent", {"fields": {"exitintinfo": 0x8000_1300}}),
        ("control_area_untouched", {"fields": {"asid": 2}}),
        ("control_area_untouched", {"fields": {"clean": 1}}),
        ("control_area_untouched", {"fields": {"tlb_control": 3}}),
        ("control_area_untouched", {"fields": {"nrip": 0x1234}}),
        (
            "control_area_untouched_when_invalid",
            {"before": {"asid": 0}, "fields": {"exitcode": VMEXIT.INVALID, "v_intr_masking": 0}},
        ),
        ("invalid_iff_rule_broken", {"fields": {"exitcode": VMEXIT.INVALID}}),
        ("invalid_iff_rule_broken", {"fields": {"exitcode": 0xFFFF_FFFF}}),
        ("invalid_iff_rule_broken", {"before": {"asid": 0}}),
        ("invalid_iff_rule_broken", {"before": {"efer": 0x500}}),
        ("invalid_iff_rule_broken", {"before": {"eventinj": 0x8000_0702}}),
        ("invalid_iff_rule_broken", {"before": {"dr7": 1 << 32 | 0x400}}),
        ("vmload_fields_untouched", {"fields": {"lstar": 1}}),
        ("vmload_fields_untouched", {"fields": {"fs.base": 1}}),
        ("exitcode_known", {"fields": {"exitcode": 0xA5A5_A5A5_A5A5_A5A5}}),
        ("exitcode_known", {"fields": {"exitcode": 0x3FF}}),
    ],
)
def test_one_lie_is_noticed_by_its_check_alone(clause, lie):
    assert failing(exit_with(**lie)) == {f"core.exit.{clause}"}


def test_reserved_bytes():
    start = images.vmcb_image("long64")
    after = start.copy()
    after.update(GOOD)
    after.data[0xFFF] = 1
    made = Exit(start, after, VmrunAnswer(VmrunResult.PROBED, 0, {}, [], [], {}), {})

    assert failing(universal.judge(made, universal.Context(CPUID, b"", True))) == {"core.exit.reserved_untouched"}


@pytest.mark.parametrize(
    "honest",
    [
        {"host": {"CR2": (1, 5)}, "fields": {"cr2": 5}},
        {"host": {"CR2": (1, 5)}, "before": {"cr2": 5}, "fields": {"cr2": 6}},
        {"fields": {"cr2": 5}},
        {"host": {"DR6": (0xFFFF0FF0, 0xFFFF0FF1)}, "fields": {"dr6": 0xFFFF_0FF1}},
        {"host": {"DR6": (0xFFFF0FF0, 0xFFFF1FF0)}},
        {"host": {"DR6": (0xFFFF0FF0, 0xFFFF0FF2)}, "code": b"\x0f\x23\xf0"},
        {"host": {DEBUGCTL: (0, 1)}, "code": b"\x0f\x30"},
        {"host": {DEBUGCTL: (3, 2)}},
        {"events": [event(0x61, Phase.BEFORE_VMRUN)], "clgi": False},
        {"events": [event(0x61, Phase.AFTER_STGI), event(2, Phase.AFTER_STGI), event(3, Phase.NONE)]},
        {"events": [event(1, Phase.VMRUN, rflags=0x102, dr6=0xFFFF_4FF0)]},
        {"events": [event(13, Phase.BEFORE_VMRUN)], "result": VmrunResult.NONE},
        {"host": {"DR7": (0x401, 0x400)}},
        {"host": {"MSR_C0000082": (0, 0xA5)}, "code": b"\x0f\x30\x0f\x01\xd9"},
        {"fields": {"lstar": 1}, "vmsaved": True},
        {"fields": {"cr2": 5, "rip": 7, "v_tpr": 3}},
        {"result": LOST, "code": b"\x0f\x30"},
        {"before": {"asid": 0}, "fields": {"exitcode": VMEXIT.INVALID}},
        {"before": {"asid": 0, "tlb_control": 2}, "fields": {"exitcode": VMEXIT.INVALID}},
        {"before": {"tlb_control": 2}, "fields": {"exitcode": VMEXIT.INVALID}},
        {"before": {"tlb_control": 2}},
        {"before": PAE, "fields": {"exitcode": VMEXIT.INVALID}},
        {"before": {"asid": 0}, "vmcb_known": False},
    ],
)
def test_what_hardware_does_is_no_deviation(honest):
    assert failing(exit_with(**honest)) == set()


def test_vmrun_that_faulted_made_no_exit():
    assert exit_with(result=VmrunResult.FAULTED) == {}


def test_a_vmcb_with_clean_bits_may_not_be_the_one_that_was_read():
    start = images.vmcb_image("long64")
    start.update({"asid": 0, "clean": 1})
    after = start.copy()
    after.update(GOOD)
    made = Exit(start, after, VmrunAnswer(VmrunResult.PROBED, 0, {}, [], [], {}), {})
    both = [make_cpuid(["NP", "VmcbClean"]), make_cpuid(["NP"])]

    asked = [universal.judge(made, universal.Context(cpuid, b"", True)) for cpuid in both]
    assert ["core.exit.invalid_iff_rule_broken" in failing(outcome) for outcome in asked] == [False, True]


def test_only_rules_that_are_certain_are_asked():
    """A rule that can be broken for certain states a clause that every CPU must hold, where its condition does."""
    clauses = load_clauses(Path(__file__).resolve().parents[2] / "suites")
    never = {"tlb_control_reserved", "x2avic_without_avic"}  # never certain, and no clause says so
    classes = {check.id: clauses[check.clause].class_ for check in CHECKS if check.id not in never}
    uncertain = {name for name, class_ in classes.items() if class_ not in ("mandatory", "conditional")}

    assert uncertain == {
        "efer_lma_mismatch", "cr0_reserved", "pcide_without_long_mode", "pae_pdpe", "rflags_reserved",
        "rflags_vm_in_long_mode", "asid_beyond_nasid", "eventinj_reserved", "control_reserved",
    }  # fmt: skip
    broken = Vmcb(bytearray(b"\xff" * 4096))
    assert not (uncertain | never) & {rule.id for rule in broken_rules(broken, make_cpuid([])) if rule.certain}


def test_what_was_found_on_one_cpu_is_not_taken_for_another():
    answers = []
    for cpuid in (make_cpuid(["UMIP"]), make_cpuid([]), make_cpuid(["UMIP"])):
        start = images.vmcb_image("long64")
        start.update({"cr4": start["cr4"] | 1 << 11})
        after = start.copy()
        after.update(GOOD)
        made = Exit(start, after, VmrunAnswer(VmrunResult.PROBED, 0, {}, [], [], {}), {})
        outcome = universal.judge(made, universal.Context(cpuid, b"", True))
        answers.append("core.exit.invalid_iff_rule_broken" in failing(outcome))

    assert answers == [False, True, False]


class Watched(Vmcb):
    """A VMCB that notes which fields are read."""

    def __init__(self, data):
        super().__init__(data)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


def test_what_the_rules_read_is_what_tells_vmcbs_apart():
    """Else the answer for another VMCB would be taken."""
    everything = make_cpuid([each.name for each in SVM_BITS if not each.reserved] + ["CET_SS", "LM", "NX", "PCID"])
    read = set()
    for mode in ("long64", "pae32", "real16"):
        for fill in (None, 0xFF):
            vmcb = Watched(images.vmcb_image(mode).data if fill is None else bytearray([fill]) * 4096)
            broken_rules(vmcb, everything)
            read |= vmcb.read

    assert {"cr0", "asid", "eventinj"} <= read
    told = [name for name in read if any(start <= field(name).offset < end for start, end in consistency.ASKED)]
    assert sorted(told) == sorted(read)
