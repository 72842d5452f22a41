"""VMRUN's checks of the control area: the ASID and the VMRUN intercept.

Hardware ends VMRUN with VMEXIT_INVALID when the guest's ASID is 0, which is the host's own, and when the VMRUN
intercept is clear, whatever the other fields hold (APM2 15.5.1). A wrong L0 lets ASID 0 through and so runs L2 with the
translations of L1, or reads the ASID together with its neighbours in the same quadword; one that forgets the intercept
has to deal with VMRUN inside VMRUN.
"""

import pytest

from harness import VMEXIT, clause

EVERY_EXCEPTION = 0xFFFF_FFFF


@clause("core.checks.asid_zero")
@pytest.mark.parametrize("tlb_control", [0, 1], ids=["keep_tlb", "flush_tlb"])
@pytest.mark.parametrize("mode", ["long64", "compat32", "pae32", "paged32", "prot32", "real16"])
def test_asid_zero_is_refused(l1, mode, tlb_control):
    """TLB_CONTROL shares ASID's quadword: an L0 that takes all 64 bits for the ASID sees a number other than 0."""
    guest = l1.guest("vmmcall", mode=mode, vmcb={"asid": 0, "tlb_control": tlb_control})

    assert guest.run().is_invalid


@clause("core.checks.asid_zero")
@pytest.mark.parametrize("which", ["one", "two", "last"])
def test_legal_asids_run(l1, which):
    """1 and NASID-1 are the first and the last ASID of a guest."""
    guest = l1.guest("start: vmmcall")
    asid = {"one": 1, "two": 2, "last": l1.cpuid.nasid - 1}[which]
    if not 1 <= asid < l1.cpuid.nasid:
        pytest.skip(f"L1 is offered {l1.cpuid.nasid} ASIDs")
    guest.vmcb["asid"] = asid

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"], asid=asid)


@clause("core.checks.asid_beyond_nasid")
@pytest.mark.parametrize("which", ["nasid", "nasid+100", "all_ones"])
def test_asid_beyond_nasid_is_survived(l1, which):
    """No check is documented: L2 may run or be refused, and L1 must find everything as it was."""
    guest = l1.guest("start: vmmcall")
    nasid = l1.cpuid.nasid
    guest.vmcb["asid"] = {"nasid": nasid, "nasid+100": nasid + 100, "all_ones": 0xFFFF_FFFF}[which]

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.vmrun_intercept_clear")
@pytest.mark.parametrize("mode", ["long64", "pae32", "prot32", "real16"])
def test_vmrun_intercept_clear_is_refused(l1, mode):
    """One bit clear, everything else as in a VMCB that runs."""
    assert l1.guest("vmmcall", mode=mode, no_intercept=["vmrun"]).run().is_invalid


@clause("core.checks.vmrun_intercept_clear")
def test_vmrun_intercept_clear_is_refused_with_no_intercept_at_all(l1):
    """All intercept words are 0."""
    words = ("cr_read", "cr_write", "dr_read", "dr_write", "exceptions", "misc1", "misc2", "misc3")

    assert l1.guest("vmmcall", vmcb={f"intercept_{word}": 0 for word in words}).run().is_invalid


@clause("core.checks.vmrun_intercept_clear")
def test_vmrun_intercept_clear_is_refused_with_all_others_set(l1):
    """The seven other bits of its byte are set, and so is all of the word before: no neighbour stands in for it."""
    vmcb = {"intercept_misc1": 0xFFFF_FFFF, "intercept_misc2": 0xFE, "intercept_exceptions": EVERY_EXCEPTION}

    assert l1.guest("vmmcall", vmcb=vmcb).run().is_invalid


@clause("core.checks.vmrun_intercept_clear")
def test_vmrun_intercept_alone_runs(l1):
    """The legal neighbour: of the second word only VMRUN and VMMCALL are set."""
    guest = l1.guest("start: vmmcall", vmcb={"intercept_misc1": 0, "intercept_misc2": 0b11})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.vnmi_without_nmi_intercept")
@pytest.mark.parametrize("intercepted", [False, True], ids=["nmi_not_intercepted", "nmi_intercepted"])
def test_virtual_nmi_asks_for_the_nmi_intercept(l1, intercepted):
    """V_NMI_ENABLE without the NMI intercept is refused; with it L2 runs."""
    change = {"intercept": ["nmi"]} if intercepted else {"no_intercept": ["nmi"]}
    guest = l1.guest("start: vmmcall", vmcb={"v_nmi_enable": 1}, **change)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"]) if intercepted else exit.is_invalid
