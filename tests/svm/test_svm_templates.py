"""VMCB templates: legal, self-consistent, outputs patterned."""

import pytest

from harness.svm import OUTPUT_RANGES, broken_rules, field, make_cpuid, make_template, unwritten
from harness.svm import registers as r
from harness.svm.templates import MODES, OUTPUT_PATTERN, prot32_template

PLACES = {"rip": 0x8000, "rsp": 0x9000, "cr3": 0x1_0000, "iopm_pa": 0x2_0000, "msrpm_pa": 0x3_0000}


@pytest.mark.parametrize("np", [False, True], ids=["shadow", "np"])
@pytest.mark.parametrize("mode", MODES)
def test_template_breaks_no_rule(mode, np):
    vmcb = make_template(mode, **PLACES, np=np, n_cr3=0x4_0000)

    assert broken_rules(vmcb, make_cpuid(["NP"])) == []
    assert vmcb["np_enable"] == int(np)
    assert vmcb["n_cr3"] == (0x4_0000 if np else 0)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "real16"])
@pytest.mark.parametrize("cpl", [0, 3])
def test_cpl_is_the_same_everywhere(mode, cpl):
    vmcb = make_template(mode, **PLACES, cpl=cpl)

    assert vmcb["cpl"] == cpl
    for name in ("cs", "ss", "ds", "es"):
        assert vmcb[f"{name}.attrib"] >> 5 & 3 == cpl
        assert vmcb[f"{name}.selector"] & 3 == cpl
    assert broken_rules(vmcb, make_cpuid()) == []


@pytest.mark.parametrize(
    ("mode", "pe", "pg", "pae", "long_mode", "code"),
    [
        ("long64", 1, 1, 1, 1, r.ATTRIB_L),
        ("compat32", 1, 1, 1, 1, r.ATTRIB_DB),
        ("prot32", 1, 0, 0, 0, r.ATTRIB_DB),
        ("pae32", 1, 1, 1, 0, r.ATTRIB_DB),
        ("paged32", 1, 1, 0, 0, r.ATTRIB_DB),
        ("real16", 0, 0, 0, 0, 0),
    ],
)
def test_mode(mode, pe, pg, pae, long_mode, code):
    vmcb = make_template(mode, **PLACES)

    assert bool(vmcb["cr0"] & r.CR0_PE) == bool(pe)
    assert bool(vmcb["cr0"] & r.CR0_PG) == bool(pg)
    assert bool(vmcb["cr4"] & r.CR4_PAE) == bool(pae)
    assert bool(vmcb["efer"] & r.EFER_LME) == bool(vmcb["efer"] & r.EFER_LMA) == bool(long_mode)
    assert vmcb["cs.attrib"] & (r.ATTRIB_L | r.ATTRIB_DB) == code
    assert (vmcb["rip"], vmcb["rsp"]) == (0x8000, 0x9000)
    assert vmcb["cr3"] == (0x1_0000 if pg else 0)


@pytest.mark.parametrize("mode", MODES)
def test_what_every_template_has(mode):
    vmcb = make_template(mode, **PLACES)

    assert all(vmcb.intercepts(name) for name in ("vmrun", "vmmcall", "shutdown", "intr"))
    assert not any(vmcb.intercepts(name) for name in ("msr", "ioio", "cpuid", "nmi"))
    assert vmcb["intercept_exceptions"] == 0xFFFF_FFFF
    assert (vmcb["asid"], vmcb["v_intr_masking"], vmcb["rflags"], vmcb["clean"]) == (1, 1, 2, 0)
    assert vmcb["g_pat"] == 0x0007_0406_0007_0406
    assert (vmcb["iopm_base_pa"], vmcb["msrpm_base_pa"]) == (0x2_0000, 0x3_0000)
    assert (vmcb["dr6"], vmcb["dr7"]) == (0xFFFF_0FF0, 0x400)


def test_output_fields_hold_the_pattern_and_nothing_else_does():
    vmcb = make_template("long64", **PLACES)
    outputs = {at for offset, size in OUTPUT_RANGES for at in range(offset, offset + size)}

    assert {at for at, byte in enumerate(vmcb.data) if byte == OUTPUT_PATTERN} == outputs


@pytest.mark.parametrize("name", ["exitcode", "exitinfo1", "exitinfo2", "exitintinfo", "nrip", "insn_len", "dbgctl"])
def test_unwritten(name):
    assert make_template("long64", **PLACES)[name] == unwritten(name)
    assert unwritten(name) == int("A5" * field(name).width_bytes, 16)


def test_real_mode_segments():
    vmcb = make_template("real16", **PLACES, base=0x3_0000)

    assert (vmcb["cs.selector"], vmcb["cs.base"], vmcb["cs.limit"]) == (0x3000, 0x3_0000, 0xFFFF)
    assert vmcb["cpl"] == 0


@pytest.mark.parametrize(
    "bad",
    [{"mode": "long16"}, {"mode": "real16", "base": 0x10_0000}, {"mode": "real16", "base": 8},
     {"mode": "real16", "cpl": 3}, {"mode": "long64", "cpl": 4}, {"mode": "long64", "np": True}],
)  # fmt: skip
def test_what_cannot_be_is_refused(bad):
    with pytest.raises(ValueError):
        make_template(**PLACES | bad)


def test_attributes_are_those_of_the_usual_descriptors():
    assert r.attrib_from_descriptor(0x00AF_9B00_0000_FFFF) == 0xA9B
    assert r.attrib_from_descriptor(0x00CF_9300_0000_FFFF) == 0xC93


def test_direct_call():
    assert prot32_template(rip=0, rsp=0, iopm_pa=0, msrpm_pa=0)["cs.limit"] == 0xFFFF_FFFF
