"""VMRUN's checks of EVENTINJ.

Hardware refuses an injection (V=1) with a reserved TYPE, an exception (TYPE 3) whose vector is no exception's, and an
event that cannot happen in the guest's mode, such as #BR in 64-bit mode (APM2 15.20). With V=0 the field says nothing.
A wrong L0 lets the host's hardware decide, by another CPUID than L1's, or delivers what it cannot name. L2 never runs
where the injection is refused; where it is legal the guest's handler is reached before L2's first instruction.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.event_tables import with_handlers

VALID, ERROR_CODE = 1 << 31, 1 << 11
INTERRUPT, NMI, EXCEPTION, SOFTWARE = (kind << 8 for kind in (0, 2, 3, 4))
WITH_ERROR_CODE = (8, 10, 11, 12, 13, 14, 17)
LEGAL_EXCEPTIONS = (0, 1, 3, 6, 7, *WITH_ERROR_CODE, 16, 18, 19)
UNASSIGNED = (9, 20, *range(22, 28), 31)

TWO_ENDS = "start: vmmcall\nnop\nhandler: vmmcall"


def with_idt(l1, *, mode="long64", eventinj=0):
    """A guest whose 256 vectors all lead to the VMMCALL at `handler`."""
    guest = l1.guest(TWO_ENDS, mode=mode)
    with_handlers(l1, guest, guest["handler"])
    guest.vmcb["eventinj"] = eventinj
    return guest


@clause("core.checks.eventinj_type")
@pytest.mark.parametrize("vector", [0x06, 0x20, 0xFF], ids=lambda vector: f"vector{vector:02x}")
@pytest.mark.parametrize("kind", [1, 5, 6, 7], ids=lambda kind: f"type{kind}")
def test_reserved_type_is_refused(l1, kind, vector):
    assert with_idt(l1, eventinj=VALID | kind << 8 | vector).run().is_invalid


@clause("core.checks.eventinj_type", "core.checks.eventinj_vector")
@pytest.mark.parametrize(
    "event",
    [1 << 8, 5 << 8, 6 << 8, 7 << 8, EXCEPTION | 2, EXCEPTION | 0x20, 0xFFFF_FFFF_7FFF_FFFF],
    ids=["type1", "type5", "type6", "type7", "nmi_as_exception", "vector32", "all_but_v"],
)
def test_nothing_is_checked_or_injected_without_v(l1, event):
    """The legal neighbours: the same values with V=0, and every other bit set."""
    guest = with_idt(l1, eventinj=event)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.eventinj_type")
@pytest.mark.parametrize(
    "event",
    [INTERRUPT | 0x20, INTERRUPT | 0xFF, NMI | 2, NMI | 0x77],
    ids=["intr_20", "intr_ff", "nmi", "nmi_vector77"],
)
def test_legal_types_are_delivered(l1, event):
    """The legal neighbours. An NMI's VECTOR field is ignored."""
    guest = with_idt(l1, eventinj=VALID | event)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"])


@clause("core.checks.eventinj_type")
def test_software_interrupt_is_delivered(l1):
    """TYPE 4, which needs NextRIP."""
    guest = with_idt(l1, eventinj=VALID | SOFTWARE | 0x80)
    l1.need("NRIPS")
    guest.vmcb["nrip"] = guest["start"]

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"])


@clause("core.checks.eventinj_vector")
@pytest.mark.parametrize("vector", [2, 15, 32, 33, 64, 127, 128, 254, 255], ids=lambda vector: f"vector{vector}")
def test_exception_with_a_vector_that_is_none_is_refused(l1, vector):
    """2 is the NMI, 15 is reserved, the rest are interrupts."""
    assert with_idt(l1, eventinj=VALID | EXCEPTION | vector).run().is_invalid


@clause("core.checks.eventinj_vector")
@pytest.mark.parametrize("error", [0, ERROR_CODE], ids=["ev0", "ev1"])
def test_exception_with_any_interrupt_vector_is_refused(l1, error):
    """A walk through 32 to 255, with and without an error code."""
    guest = with_idt(l1)
    good = guest.vmcb.copy()
    for vector in range(32, 256):
        guest.rewind()
        guest.vmcb = good.copy()
        guest.vmcb["eventinj"] = VALID | EXCEPTION | error | vector
        exit = guest.run()
        assert exit.is_invalid, f"vector {vector}"


@clause("core.checks.eventinj_vector")
@pytest.mark.parametrize("vector", LEGAL_EXCEPTIONS, ids=lambda vector: f"vector{vector}")
def test_exception_with_an_exceptions_vector_is_delivered(l1, vector):
    """The legal neighbours."""
    guest = with_idt(l1, eventinj=VALID | EXCEPTION | (ERROR_CODE if vector in WITH_ERROR_CODE else 0) | vector)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"])


@clause("core.checks.eventinj_vector_unassigned")
@pytest.mark.parametrize("vector", UNASSIGNED, ids=lambda vector: f"vector{vector}")
def test_exception_with_an_unassigned_vector_is_survived(l1, vector):
    """Refused by newer parts; older ones may know another set of exceptions."""
    guest = with_idt(l1, eventinj=VALID | EXCEPTION | vector)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["handler"])


@clause("core.checks.eventinj_impossible_in_mode")
def test_bound_exception_in_64_bit_mode_is_refused(l1):
    """BOUND does not exist there. This is the APM's own example."""
    assert with_idt(l1, eventinj=VALID | EXCEPTION | 5).run().is_invalid


@clause("core.checks.eventinj_impossible_in_mode")
@pytest.mark.parametrize("vector", [4, 5], ids=["of", "br"])
def test_bound_and_overflow_exceptions_in_32_bit_mode_are_delivered(l1, vector):
    """The legal neighbours: both can happen there."""
    guest = with_idt(l1, mode="prot32", eventinj=VALID | EXCEPTION | vector)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"])


@clause("core.checks.eventinj_reserved")
@pytest.mark.parametrize("bit", range(12, 31), ids=lambda bit: f"bit{bit}")
def test_reserved_bit_is_survived(l1, bit):
    """Bits 30:12 should be zero; what comes of a 1 is not said."""
    guest = with_idt(l1, eventinj=VALID | INTERRUPT | 0x20 | 1 << bit)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["handler"])
