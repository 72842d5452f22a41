"""What #VMEXIT may write, as it depends on what is switched on and offered."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.svm import (
    FIELDS,
    VMLOAD_FIELDS,
    Clean,
    Vmcb,
    Write,
    exit_write,
    exit_write_masks,
    field,
    forbidden_changes,
    make_cpuid,
    make_template,
    may_write,
    written_by_vmexit,
)
from harness.svm.exit_writes import SAVED_STATE
from harness.svm.features import FEATURES

PLACES = {"rip": 0x8000, "rsp": 0x9000, "cr3": 0x1_0000, "iopm_pa": 0x2_0000, "msrpm_pa": 0x3_0000, "n_cr3": 0x4_0000}
EVERYTHING = make_cpuid([i.name for i in FEATURES.values() if i.infer is None])
PLAIN = make_cpuid()
ALWAYS = (
    "exitcode", "exitinfo1", "exitinfo2", "exitintinfo", "eventinj", "v_tpr", "v_irq", "interrupt_shadow",
    *SAVED_STATE,
)  # fmt: skip
NEVER = (
    "intercept_cr_read", "intercept_cr_write", "intercept_dr_read", "intercept_dr_write", "intercept_exceptions",
    "intercept_misc1", "intercept_misc2", "intercept_misc3", "pause_filter_threshold", "pause_filter_count",
    "iopm_base_pa", "msrpm_base_pa", "tsc_offset", "asid", "tlb_control", "v_intr_prio", "v_ign_tpr",
    "v_intr_masking", "v_intr_vector", "v_gif_enable", "v_nmi_enable", "avic_enable", "x2avic_enable", "np_control",
    "np_enable", "avic_bar", "ghcb", "n_cr3", "virt_ext", "lbr_virt_enable", "clean", "avic_backing_page",
    "host_reserved", *VMLOAD_FIELDS,
)  # fmt: skip
WHEN = [  # name, feature, fields that switch it on
    ("nrip", "NRIPS", {}),
    ("insn_len", "DecodeAssists", {}),
    ("insn_bytes", "DecodeAssists", {}),
    ("v_gif", "VGIF", {"v_gif_enable": 1}),
    ("v_nmi", "VNMI", {"v_nmi_enable": 1}),
    ("v_nmi_mask", "VNMI", {"v_nmi_enable": 1}),
    ("g_pat", "NP", {"np_enable": 1}),
    ("dbgctl", "LbrVirt", {"lbr_virt_enable": 1}),
    ("last_excp_to", "LbrVirt", {"lbr_virt_enable": 1}),
    ("s_cet", "CET_SS", {}),
    ("ssp", "CET_SS", {}),
    ("spec_ctrl", "SpecCtrl", {}),
    ("bus_lock_count", "BusLockThreshold", {"intercept_misc3": 1 << 5}),
    ("ibs_op_rip", "IbsVirt", {"ibs_virt_enable": 1}),
    ("perf_ctr5", "PmcVirt", {"pmc_virt_enable": 1}),
]


@pytest.mark.parametrize("cpuid", [PLAIN, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("name", ALWAYS)
def test_always_written(name, cpuid):
    assert exit_write(name, Vmcb(), cpuid) is Write.WRITES


@pytest.mark.parametrize("name", NEVER)
def test_never_written(name):
    everything_on = Vmcb(b"\xff" * 4096)

    assert exit_write(name, everything_on, EVERYTHING) is Write.NEVER
    assert not may_write(name, everything_on, EVERYTHING)


@pytest.mark.parametrize(("name", "feature", "switch"), WHEN)
def test_written_only_when_offered_and_on(name, feature, switch):
    on, off = Vmcb(fields=switch), Vmcb()

    assert may_write(name, on, make_cpuid([feature]))
    assert not may_write(name, on, PLAIN)
    if switch:
        assert not may_write(name, off, make_cpuid([feature]))


def test_lbr_stack_needs_version_2():
    on = Vmcb(fields={"lbr_virt_enable": 1})

    assert may_write("lbr_stack", on, make_cpuid(["LbrVirt", "LbrExtV2"]))
    assert not may_write("lbr_stack", on, make_cpuid(["LbrVirt"]))


@pytest.mark.parametrize("name", ["gdtr.selector", "idtr.attrib"])
def test_reserved_words_of_table_registers_are_not_judged(name):
    assert exit_write(name, Vmcb(), PLAIN) is Write.UNSAID
    assert may_write(name, Vmcb(), PLAIN)


def test_unknown_field_and_byte():
    with pytest.raises(KeyError):
        may_write("nonsense", Vmcb(), PLAIN)
    with pytest.raises(ValueError, match="no byte"):
        may_write(4096, Vmcb(), PLAIN)


@pytest.mark.parametrize(
    ("offset", "may"),
    [(0x000, False), (0x058, False), (0x060, True), (0x062, True), (0x064, False), (0x070, True), (0x08F, True),
     (0x0A8, True), (0x0C0, False), (0x0C8, False), (0x0D0, False), (0x2FF, False), (0x410, True), (0x440, False),
     (0x4CA, False), (0x4CB, True), (0x578, True), (0x600, False), (0x640, True), (0x668, False), (0x670, False),
     (0xFFF, False)],
)  # fmt: skip
def test_bytes(offset, may):
    """Byte 62h holds V_INTR_PRIO, which is never written, and reserved bits, of which the APM says nothing."""
    assert may_write(offset, Vmcb(), PLAIN) is may


def test_masks_agree_with_fields():
    before = make_template("long64", **PLACES, np=True)
    before.update({"v_gif_enable": 1, "lbr_virt_enable": 1})
    page = int.from_bytes(exit_write_masks(before, EVERYTHING), "little")

    for item in FIELDS:
        if item.name in ("vintr", "int_state"):
            continue
        bits = page >> 8 * item.offset & item.mask
        assert bits == (item.mask if may_write(item.name, before, EVERYTHING) else 0), item.name


def test_virtual_interrupt_word_bit_by_bit():
    mask = int.from_bytes(exit_write_masks(Vmcb(), PLAIN)[0x60:0x68], "little")

    assert mask & 0x1FF == 0x1FF  # V_TPR, V_IRQ
    assert mask & (1 << 9 | 3 << 11 | 0xF << 16 | 1 << 20 | 7 << 24 | 3 << 30 | 0xFF << 32) == 0


def test_changes_that_are_allowed_are_not_reported():
    before = make_template("long64", **PLACES)
    after = before.copy()
    after.update({"rip": 0x9000, "exitcode": 0x72, "v_irq": 1, "eventinj": 0, "cs.base": 5})

    assert forbidden_changes(before, after, PLAIN) == []


def test_changes_that_are_not_allowed_are_reported_whole():
    before = make_template("long64", **PLACES)
    after = before.copy()
    after.update({"rip": 0x9000, "clean": 0x21, "v_irq": 1, "v_intr_vector": 0x30, "nrip": 0})
    after.data[0x900] = 1

    changes = {change.name: change for change in forbidden_changes(before, after, PLAIN)}

    assert set(changes) == {"clean", "vintr", "nrip", "reserved 900h..900h"}
    assert (changes["vintr"].before, changes["vintr"].after) == (before["vintr"], after["vintr"])
    assert changes["nrip"].field is field("nrip")


def test_060h_may_come_back_as_the_cpu_has_it_where_its_clean_bit_is_set():
    before = make_template("long64", **PLACES)
    before["clean"] = 1 << Clean.TPR
    after = before.copy()
    after["v_intr_masking"] = 0

    assert forbidden_changes(before, after, PLAIN) != []
    assert forbidden_changes(before, after, make_cpuid(["VmcbClean"])) == []


@given(st.integers(0, 4096 * 8 - 1))
def test_one_flipped_bit_is_reported_exactly_if_its_mask_bit_is_0(number):
    before = Vmcb(random.Random(3).randbytes(4096))
    after = before.copy()
    after.data[number // 8] ^= 1 << number % 8
    allowed = exit_write_masks(before, PLAIN)[number // 8] >> number % 8 & 1

    assert bool(forbidden_changes(before, after, PLAIN)) != bool(allowed)


def test_names_of_what_is_written():
    names = written_by_vmexit(Vmcb(), PLAIN)

    assert set(ALWAYS) <= set(names)
    assert not set(NEVER) & set(names)
    assert "nrip" in written_by_vmexit(Vmcb(), make_cpuid(["NRIPS"]))
