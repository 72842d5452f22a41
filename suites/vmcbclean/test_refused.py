"""Clean bits and the consistency checks.

VMRUN checks what it would use, values that it still has among them (APM2 15.5.1). So an illegal value behind a clear
bit is refused; behind a set bit it is refused too, or the CPU runs L2 with the legal one that it has. A refused value
is never used. Xen kept the intercepts of a VMCB that it refused, and let the next VMRUN, whose bit 0 said "unchanged",
run with them: that reached L0's memory.
"""

from harness import VMEXIT, any_of, cases, clause
from harness.svm import Clean
from suites.vmcbclean import probes
from suites.vmcbclean.probes import EVERY, exit_code

INVALID_LOW = 0xFFFF_FFFF  # EXITCODE[31:0] of VMEXIT_INVALID
UPPER = 1 << 32  # must be 0 in all of these registers
VMRUN_INTERCEPT = 1
# A probe, the field of it that is broken, and how.
BROKEN = {
    **{name: (probe, name, UPPER) for name, probe in probes.CONTROL.items() if name in ("cr0", "cr4", "efer")},
    **{name: (probe, name, UPPER) for name, probe in probes.DEBUG.items()},
    "vmrun_intercept": (probes.INTERCEPTS["general2"], "intercept_misc2", VMRUN_INTERCEPT),
}


def refused(started, clean):
    """VMRUN is refused; then the VMCB is as it was, whatever L0 wrote into it."""
    guest = started.guest
    before = bytes(guest.vmcb.data)
    assert guest.resume("again", clean=clean).is_invalid
    guest.vmcb.data[:] = before


def broken(l1, probe, field, bits):
    """L2 has run with the old value; the new one, with some bits inverted, is in the VMCB."""
    started = probe.start(l1)
    assert started.is_old()
    started.change()
    started.guest.vmcb[field] ^= bits
    return started, started.guest


@clause("vmcbclean.checks", "vmcbclean.absent")
@cases("probe, field, bits", BROKEN)
def test_illegal_value_behind_a_clear_bit(l1, probe, field, bits):
    """All other bits are set."""
    started, _ = broken(l1, probe, field, bits)

    refused(started, EVERY & ~(1 << probe.bit))


@clause("vmcbclean.checks", "vmcbclean.absent")
@cases("probe, field, bits", BROKEN)
def test_illegal_value_behind_a_set_bit(l1, probe, field, bits):
    """Refused, or L2 runs with the old value. Without VmcbClean it is refused."""
    _, guest = broken(l1, probe, field, bits)

    exit = guest.resume("again", clean=EVERY)

    code = exit.code & INVALID_LOW
    runs = probe.seen_old if probe.see is exit_code else VMEXIT.VMMCALL
    expected = l1.either("VmcbClean", offered=any_of(INVALID_LOW, runs), absent=INVALID_LOW)
    assert l1.expect("EXITCODE[31:0]", code, expected, width_bytes=4)
    if code != INVALID_LOW:
        assert l1.expect("what L2 finds", probe.see(exit), probe.seen_old)


@clause("vmcbclean.after_invalid", "vmcbclean.absent")
@cases("probe, field, bits", BROKEN)
def test_mended_behind_a_clear_bit(l1, probe, field, bits):
    """After the refusal; then once more with all bits set."""
    started, guest = broken(l1, probe, field, bits)
    clean = EVERY & ~(1 << probe.bit)
    refused(started, clean)
    guest.vmcb[field] ^= bits

    assert started.is_new(clean)
    assert started.is_new(EVERY)


@clause("vmcbclean.after_invalid_bits_set", "vmcbclean.absent")
@cases("probe, field, bits", BROKEN)
def test_mended_behind_a_set_bit(l1, probe, field, bits):
    """L1 does not say that it has mended the field: never the refused value, and with 0 the mended one."""
    started, guest = broken(l1, probe, field, bits)
    refused(started, 0)
    guest.vmcb[field] ^= bits

    exit = guest.resume("again", clean=EVERY)

    if (exit.code & INVALID_LOW) != INVALID_LOW:
        either = any_of(probe.seen_old, probe.seen_new)
        expected = l1.either("VmcbClean", offered=either, absent=probe.seen_new)
        assert l1.expect("what L2 finds", probe.see(exit), expected)
    started.change()
    assert started.is_new(0)


@clause("vmcbclean.after_invalid", "vmcbclean.absent")
def test_asid_0_between(l1):
    """Refused for its ASID, all other bits set; then with an ASID, and bit 2 clear."""
    guest = l1.guest("again: mov rax, dr7\nend: vmmcall", vmcb={"dr7": 0x00DF_0400})
    assert guest.run().reached("end", rax=0x00DF_0400)
    before = bytes(guest.vmcb.data)
    clean = EVERY & ~(1 << Clean.ASID)
    assert guest.resume("again", asid=0, clean=clean).is_invalid
    guest.vmcb.data[:] = before

    assert guest.resume("again", clean=clean).reached("end", rax=0x00DF_0400)
