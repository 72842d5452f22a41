"""CPUID: names of bits, limits, conditions, legal masks."""

import pytest

from harness.svm import FEATURES, SVM_BITS, Cpuid, make_cpuid, svm_bit
from harness.svm import registers as r
from harness.svm.features import feature, normalise


def test_all_32_svm_bits_are_there_in_order():
    assert [item.bit for item in SVM_BITS] == list(range(32))
    assert [item.bit for item in SVM_BITS if item.reserved] == [9, 11, 14, 22]
    assert all(item.apm and item.title for item in SVM_BITS)


@pytest.mark.parametrize(
    ("name", "bit"),
    [
        ("NP", 0), ("LBRVIRT", 1), ("SVML", 2), ("NRIPS", 3), ("TSCRATEMSR", 4), ("VMCBCLEAN", 5),
        ("FLUSHBYASID", 6), ("DECODEASSISTS", 7), ("PmcVirt", 8), ("PAUSEFILTER", 10), ("PauseFilterThreshold", 12),
        ("AVIC", 13), ("VmsaveVirt", 15), ("VGIF", 16), ("GMET", 17), ("x2AVIC", 18), ("SSSCheck", 19),
        ("SpecCtrl", 20), ("ROGPT", 21), ("HOST_MCE_OVERRIDE", 23), ("TlbiCtl", 24), ("VNMI", 25), ("IbsVirt", 26),
        ("ExtLvtAvicAccessChg", 27), ("SVME_ADDR_CHK", 28), ("bit28", 28), ("BusLockThreshold", 29),
        ("IdleHltIntercept", 30), ("EnhancedShutdownIntercept", 31),
    ],
)  # fmt: skip
def test_svm_bit_by_name(name, bit):
    cpuid = make_cpuid([name])

    assert svm_bit(name).bit == svm_bit(name.lower()).bit == bit
    assert svm_bit(bit).bit == bit
    assert cpuid.svm_bits == 1 << bit
    assert cpuid.has(name) and cpuid.has(name.upper())
    assert not make_cpuid().has(name)


def test_no_svm_bit_of_that_name():
    with pytest.raises(KeyError, match="nonsense"):
        svm_bit("nonsense")


def test_no_two_features_share_a_place_or_a_name():
    places = [(f.leaf, f.sub, f.register, f.bit) for f in FEATURES.values() if f.infer is None]
    names = [normalise(name) for f in FEATURES.values() for name in (f.name, *f.aliases)]

    assert len(places) == len(set(places))
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "leaf", "register", "bit"),
    [
        ("PCID", 1, "ECX", 17), ("XSAVE", 1, "ECX", 26), ("FSGSBASE", 7, "EBX", 0), ("SMEP", 7, "EBX", 7),
        ("SMAP", 7, "EBX", 20), ("UMIP", 7, "ECX", 2), ("PKU", 7, "ECX", 3), ("CET_SS", 7, "ECX", 7),
        ("LA57", 7, "ECX", 16), ("SVM", 0x8000_0001, "ECX", 2), ("SKINIT", 0x8000_0001, "ECX", 12),
        ("TCE", 0x8000_0001, "ECX", 17), ("NX", 0x8000_0001, "EDX", 20), ("FFXSR", 0x8000_0001, "EDX", 25),
        ("LM", 0x8000_0001, "EDX", 29), ("MCOMMIT", 0x8000_0008, "EBX", 8), ("UAI", 0x8000_0021, "EAX", 7),
        ("AIBRS", 0x8000_0021, "EAX", 8),
    ],
)  # fmt: skip
def test_feature_place(name, leaf, register, bit):
    item = feature(name)

    assert (item.leaf, item.register, item.bit) == (leaf, register, bit)


def test_why_names_the_place():
    assert make_cpuid().why("nrips") == "CPUID Fn8000_000A EDX[3] (NRIPS) is 0"
    assert make_cpuid(["SMEP"]).why("SMEP") == "CPUID Fn0000_0007_x0 EBX[7] (SMEP) is 1"
    assert "inferred" in make_cpuid().why("LMSLE")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", True), ("NP", True), ("!NP", False), ("VGIF", False), ("NP & !VGIF", True), ("NP&VGIF", False),
        ("VGIF | NP", True), ("!VGIF & !VNMI", True), ("!(NP | VGIF)", False), ("NP && (VGIF || NRIPS)", True),
        ("!!NP", True), ("VGIF & VNMI | NP", True), ("NP | VGIF & VNMI", True), ("SEV-ES", False),
    ],
)  # fmt: skip
def test_condition(expression, expected):
    cpuid = make_cpuid(["NP", "NRIPS"])

    assert cpuid.evaluate_condition(expression)[0] is expected


def test_condition_says_why():
    held, reason = make_cpuid(["NP"]).evaluate_condition("NP & !VGIF")

    assert held
    assert reason == "CPUID Fn8000_000A EDX[0] (NP) is 1; CPUID Fn8000_000A EDX[16] (VGIF) is 0"


@pytest.mark.parametrize("bad", ["NP &", "& NP", "(NP", "NP)", "NP VGIF", "NP + VGIF", "NoSuchThing", "!", "()"])
def test_condition_that_cannot_be_read(bad):
    with pytest.raises(ValueError):
        make_cpuid().evaluate_condition(bad)


def test_condition_nesting_is_bounded():
    with pytest.raises(ValueError, match="deep"):
        make_cpuid().evaluate_condition("(" * 5000 + "NP" + ")" * 5000)


def test_unknown_feature():
    with pytest.raises(ValueError, match="unknown"):
        make_cpuid().has("NoSuchThing")
    with pytest.raises(ValueError, match="no CPUID bit"):
        make_cpuid(["LMSLE"])


def test_identity():
    cpuid = make_cpuid(maxphyaddr=40, nasid=32768)

    assert (cpuid.vendor, cpuid.family, cpuid.model, cpuid.stepping) == ("AuthenticAMD", 0x19, 0x21, 0)
    assert (cpuid.maxphyaddr, cpuid.maxlinaddr, cpuid.nasid, cpuid.svm_rev) == (40, 48, 32768, 1)
    assert cpuid.svm and cpuid.hypervisor == ""


def test_old_family_has_no_extended_numbers():
    cpuid = Cpuid({(1, 0): (0x0000_0613, 0, 0, 0)})

    assert (cpuid.family, cpuid.model, cpuid.stepping) == (6, 1, 3)


def test_brand_and_hypervisor_text():
    text = b"AMD Test Processor".ljust(48, b"\0")
    words = [int.from_bytes(text[i : i + 4], "little") for i in range(0, 48, 4)]
    cpuid = Cpuid(
        {(0x8000_0002 + n, 0): (words[4 * n], words[4 * n + 1], words[4 * n + 2], words[4 * n + 3]) for n in range(3)}
        | {(1, 0): (0, 0, 1 << 31, 0), (0x4000_0000, 0): (0, 0x4B4D564B, 0x564B4D56, 0x4D)}
    )

    assert cpuid.brand == "AMD Test Processor"
    assert cpuid.hypervisor == "KVMKVMKVM"


def test_a_hypervisor_without_a_name_is_still_one():
    assert Cpuid({(1, 0): (0, 0, 1 << 31, 0)}).hypervisor == "unnamed"


def test_missing_leaves_read_zero():
    cpuid = Cpuid({})

    assert cpuid.leaf(0x8000_000A) == (0, 0, 0, 0)
    assert not cpuid.svm
    assert cpuid.maxphyaddr == 36


def test_leaf_must_be_four_words():
    with pytest.raises(ValueError, match="32-bit"):
        Cpuid({(0, 0): (1 << 32, 0, 0, 0)})


def test_is_a_mapping():
    cpuid = make_cpuid()

    assert dict(cpuid)[0x8000_000A, 0] == (1, 16, 0, 0)
    assert len(cpuid) == len(list(cpuid))


@pytest.mark.parametrize(
    ("features", "bits"),
    [
        ([], r.EFER_SCE | r.EFER_LME | r.EFER_LMA | r.EFER_NXE | r.EFER_SVME | r.EFER_LMSLE),
        (["EferLmsleUnsupported"], r.EFER_SCE | r.EFER_LME | r.EFER_LMA | r.EFER_NXE | r.EFER_SVME),
    ],
)
def test_efer_legal_mask(features, bits):
    assert make_cpuid(features).efer_legal_mask() == bits


@pytest.mark.parametrize(
    ("name", "bit"),
    [
        ("FFXSR", r.EFER_FFXSR), ("TCE", r.EFER_TCE), ("MCOMMIT", r.EFER_MCOMMIT), ("INTWB", r.EFER_INTWB),
        ("UAI", r.EFER_UAIE), ("AIBRS", r.EFER_AIBRSE),
    ],
)  # fmt: skip
def test_efer_bit_needs_its_feature(name, bit):
    assert make_cpuid([name]).efer_legal_mask() ^ make_cpuid().efer_legal_mask() == bit


def test_without_long_mode_there_is_no_lme():
    mask = make_cpuid(["SVM", "NX"], basics=False).efer_legal_mask()

    assert mask == r.EFER_NXE | r.EFER_SVME


@pytest.mark.parametrize(
    ("name", "bit"),
    [
        ("UMIP", 11), ("LA57", 12), ("FSGSBASE", 16), ("PCID", 17), ("XSAVE", 18), ("SMEP", 20), ("SMAP", 21),
        ("PKU", 22), ("CET_SS", 23),
    ],
)  # fmt: skip
def test_cr4_bit_needs_its_feature(name, bit):
    assert make_cpuid().cr4_legal_mask() == 0x7FF
    assert make_cpuid([name]).cr4_legal_mask() == 0x7FF | 1 << bit
