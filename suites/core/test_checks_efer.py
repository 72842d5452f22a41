"""VMRUN's checks of the guest's EFER.

Hardware refuses EFER with SVME clear, because a guest's EFER.SVME is not the guest's to choose, and with an MBZ bit set
(APM2 15.5.1). Which bits those are follows CPUID. EFER.LMA is not checked against LME and CR0.PG.
A wrong L0 loads whatever is there, judges by the host's CPUID, or hands the value to its WRMSR, which raises #GP.
"""

import pytest

from harness import VMEXIT, clause

LME, LMA, NXE, SVME = 1 << 8, 1 << 10, 1 << 11, 1 << 12

NEVER = (9, 16, 19, *range(22, 64))
BY_FEATURE = {14: "FFXSR", 15: "TCE", 17: "MCOMMIT", 18: "INTWB", 20: "UAI", 21: "AIBRS"}


@clause("core.checks.efer_svme_clear")
@pytest.mark.parametrize("mode", ["long64", "compat32", "pae32", "paged32", "prot32", "real16"])
def test_svme_clear_is_refused(l1, mode):
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["efer"] &= ~SVME

    assert guest.run().is_invalid


@clause("core.checks.efer_svme_clear")
@pytest.mark.parametrize("mode", ["long64", "compat32", "pae32", "paged32", "prot32", "real16"])
def test_svme_set_runs(l1, mode):
    """The legal neighbour of every mode, and the control of all tests here."""
    guest = l1.guest("start: vmmcall", mode=mode)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.efer_reserved")
@pytest.mark.parametrize("bit", NEVER, ids=lambda bit: f"bit{bit}")
def test_reserved_bit_is_refused(l1, bit):
    guest = l1.guest("vmmcall")
    guest.vmcb["efer"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.efer_reserved")
@pytest.mark.parametrize("mode", ["pae32", "prot32", "real16"])
@pytest.mark.parametrize("bit", [9, 63], ids=["bit9", "bit63"])
def test_reserved_bit_is_refused_outside_long_mode(l1, mode, bit):
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["efer"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.efer_reserved")
@pytest.mark.parametrize(("bit", "feature"), [pytest.param(*item, id=item[1].lower()) for item in BY_FEATURE.items()])
def test_bit_of_a_feature_that_is_not_offered_is_refused(l1, bit, feature):
    guest = l1.guest("vmmcall")
    l1.need(f"!{feature}")
    guest.vmcb["efer"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.efer_reserved")
def test_lmsle_is_refused_where_cpuid_says_it_is_unsupported(l1):
    """Fn8000_0008 EBX[20]. Without that bit nothing says whether a CPU has LMSLE, so nothing is asked of it."""
    guest = l1.guest("vmmcall")
    l1.need("EferLmsleUnsupported")
    guest.vmcb["efer"] |= 1 << 13

    assert guest.run().is_invalid


@clause("core.checks.efer_reserved")
@pytest.mark.parametrize(
    ("bit", "feature"), [(0, "SYSCALL"), (11, "NX"), *BY_FEATURE.items()], ids=lambda item: str(item).lower()
)
def test_bit_of_a_feature_that_is_offered_runs(l1, bit, feature):
    """The legal neighbours, each bit set alone, with what long mode needs."""
    guest = l1.guest("start: vmmcall")
    l1.need(feature)
    guest.vmcb["efer"] |= 1 << bit

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.efer_nxe_without_nx")
def test_nxe_without_nx_is_refused(l1):
    guest = l1.guest("vmmcall")
    guest.vmcb["efer"] |= NXE

    assert guest.run().is_invalid


@clause("core.checks.efer_lme_without_lm")
@pytest.mark.parametrize("bits", [LME, LMA, LME | LMA], ids=["lme", "lma", "both"])
def test_long_mode_bits_without_long_mode_are_refused(l1, bits):
    guest = l1.guest("vmmcall", mode="prot32", vmcb={"efer": SVME | bits})

    assert guest.run().is_invalid


@clause("core.checks.efer_lma_mismatch")
@pytest.mark.parametrize(
    ("mode", "efer"),
    [("long64", LME), ("compat32", LME), ("pae32", LMA), ("prot32", LMA), ("prot32", LMA | LME)],
    ids=["long64-lme_only", "compat32-lme_only", "pae32-lma_only", "prot32-lma_only", "prot32-lma_lme"],
)
@pytest.mark.dirties("an L0 that is confused about the mode may reload L1's state wrongly")
def test_lma_that_does_not_fit_is_survived(l1, mode, efer):
    """Implementations compute LMA again from LME and PG, or refuse, or take it as it is, whereupon L2 may fault."""
    guest = l1.guest("start: vmmcall", mode=mode, vmcb={"efer": SVME | efer})

    exit = guest.run()

    assert exit.is_invalid or exit.ran
