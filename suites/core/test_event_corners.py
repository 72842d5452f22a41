"""EVENTINJ in two corners: vectors 3 and 4 in 64-bit mode, and the field after a refused VMRUN.

#BP can come in every mode; INTO does not exist in 64-bit mode, so that an injected #OF is impossible there and refused,
or delivered (APM2 15.20 names no list). After VMEXIT_INVALID the field is as L1 wrote it, or with V cleared as after
any #VMEXIT (15.6). A wrong L0 leaves an event of its own there, which L1 then injects with the next VMRUN.
"""

from harness import any_of, cases, clause
from suites.lib.event_guest import EventGuest

VALID, EXCEPTION = 1 << 31, 3 << 8


@clause("core.inject.overflow_in_64_bit_mode")
def test_overflow_in_64_bit_mode(l1):
    """Where it is delivered, it is to vector 4, without an error code."""
    guest = EventGuest(l1, "start: nop\nvmmcall", vmcb={"eventinj": VALID | EXCEPTION | 4})
    guest.vmcb["nrip"] = guest["start"]

    exit = guest.run()

    assert exit.is_invalid or guest.took(exit, 4)
    if exit.ran:
        assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())


@clause("core.inject.overflow_in_64_bit_mode")
@cases("mode", ["long64", "compat32"])
def test_breakpoint_is_delivered(l1, mode):
    """The neighbour: INT3 exists everywhere."""
    guest = EventGuest(l1, "start: nop\nvmmcall", mode=mode, vmcb={"eventinj": VALID | EXCEPTION | 3})
    guest.vmcb["nrip"] = guest["start"]

    assert guest.took(guest.run(), 3)


REFUSED = {"asid": {"asid": 0}, "cr0": {"cr0": 1 << 32 | 0x8000_0031}, "efer": {"efer": 0x500}, "dr6": {"dr6": 1 << 32}}


@clause("core.checks.eventinj_of_a_refusal")
@cases("vmcb", REFUSED)
@cases("event", {"interrupt": VALID | 0x51, "exception": 0x1234_5678_0000_0000 | VALID | EXCEPTION | 1 << 11 | 13})
def test_eventinj_of_a_refused_vmrun(l1, event, vmcb):
    """As it was, or no valid event."""
    exit = l1.guest("vmmcall", vmcb=vmcb | {"eventinj": event}).run()

    assert exit.is_invalid
    left = exit.vmcb["eventinj"]
    assert l1.expect("EVENTINJ, if V is 1", left if left & VALID else 0, any_of(0, event))
