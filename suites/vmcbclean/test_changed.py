"""A field that L1 changes, with its clean bit clear and set.

A clear bit is always honoured: VMRUN loads what is behind it from the VMCB (APM2 15.15.1). A set bit is a hint, by
which the CPU may use what it still has: after a change it uses the old value or the new one. Without VmcbClean 0C0h is
not read at all. An L0 that copies L1's VMCB by these bits and forgets a field of a group runs L2 with an intercept, a
map or a page table that L1 has replaced; one that passes the bits on to the CPU has them stand for its own VMCB.
"""

from harness import VMEXIT, any_of, cases, clause
from harness.svm import Clean
from suites.vmcbclean import probes
from suites.vmcbclean.probes import ALL, Probe, bit_set, clear

Case = dict[str, tuple[Probe, int]]


def changed_and_said_so(group: dict[str, Probe]) -> Case:
    """Each field of the group, with its bit as the only clear one and with all bits clear."""
    return {
        f"{name}-{bits}": (probe, clean) for name, probe in group.items() for bits, clean in clear(probe.bit).items()
    }


def check(l1, probe, clean):
    """L2 finds the old value, L1 changes the field, L2 finds the new one."""
    started = probe.start(l1)
    assert started.is_old()
    started.change()
    assert started.is_new(clean)


@clause("vmcbclean.intercepts", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.INTERCEPTS))
def test_intercepts(l1, probe, clean):
    """A bit of each intercept word, added or removed; TSC_OFFSET."""
    check(l1, probe, clean)


PAUSES = "again: xor eax, eax\nmore: inc eax\ninsn: pause\ncmp eax, 60\njb more\nend: vmmcall"


@clause("vmcbclean.intercepts", "vmcbclean.absent")
@cases("clean", clear(Clean.INTERCEPTS))
def test_pause_count(l1, clean):
    """With a count of N the exit comes at the PAUSE after N, or one later (the manual says both)."""
    l1.need("PauseFilter")
    guest = l1.guest(PAUSES, intercept=["pause"], vmcb={"pause_filter_count": 7})
    assert guest.run().matches(code=VMEXIT.PAUSE, rip=guest["insn"], rax=any_of(7, 8))

    exit = guest.resume("again", pause_filter_count=20, clean=clean)

    assert exit.matches(code=VMEXIT.PAUSE, rip=guest["insn"], rax=any_of(20, 21))


@clause("vmcbclean.iopm", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.MAPS))
def test_maps(l1, probe, clean):
    """Another map, which intercepts everything."""
    check(l1, probe, clean)


@clause("vmcbclean.tpr", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.TPR))
def test_tpr(l1, probe, clean):
    """What CR8 is in L2. Virtual interrupts are in test_virtual_interrupt.py."""
    check(l1, probe, clean)


@clause("vmcbclean.np", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.NESTED))
def test_nested_paging(l1, probe, clean):
    """Other nested tables, with a flush; another PAT."""
    check(l1, probe, clean)


@clause("vmcbclean.crx", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.CONTROL))
def test_control_registers(l1, probe, clean):
    """What L2 reads, and what it does."""
    check(l1, probe, clean)


@clause("vmcbclean.drx", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.DEBUG))
def test_debug_registers(l1, probe, clean):
    """No breakpoint is enabled."""
    check(l1, probe, clean)


@clause("vmcbclean.dt", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.TABLES))
def test_descriptor_tables(l1, probe, clean):
    """As SGDT and SIDT store them."""
    check(l1, probe, clean)


@clause("vmcbclean.seg", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.SEGMENTS))
def test_segments(l1, probe, clean):
    """What L2 reads through them; attributes and limits are in test_saved.py, too."""
    check(l1, probe, clean)


@clause("vmcbclean.cr2", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.FAULT_ADDRESS))
def test_cr2(l1, probe, clean):
    """As L2 reads it."""
    check(l1, probe, clean)


@clause("vmcbclean.lbr", "vmcbclean.absent")
@cases("probe, clean", changed_and_said_so(probes.RECORDS))
def test_branch_records(l1, probe, clean):
    """DebugCtl and the four addresses, with LBR virtualization on."""
    check(l1, probe, clean)


SET = {f"{name}-{bits}": (probe, clean) for name, probe in ALL.items() for bits, clean in bit_set(probe.bit).items()}


@clause("vmcbclean.hint", "vmcbclean.absent")
@cases("probe, clean", SET)
def test_bit_says_unchanged(l1, probe, clean):
    """L1 changes the field and leaves its bit set: old or new, never a third. Clear bits then bring the new value."""
    started = probe.start(l1)
    assert started.is_old()
    started.change()
    seen = started.sees(clean)
    either = any_of(probe.seen_old, probe.seen_new)
    expected = l1.either("VmcbClean", offered=either, absent=probe.seen_new)
    assert l1.expect("what L2 finds after the change", seen, expected)

    started.change()
    assert started.is_new()


@clause("vmcbclean.unmodified", "vmcbclean.absent")
@cases("probe", ALL)
def test_nothing_was_changed(l1, probe):
    """L1 changes what the bit does not stand for, RIP, and sets all bits, twice: L2 finds the same each time."""
    started = probe.start(l1)
    assert started.is_old()
    assert started.is_old(probes.EVERY)
    assert started.is_old(probes.EVERY)
