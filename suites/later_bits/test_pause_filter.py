"""The PAUSE filter (CPUID Fn8000_000A EDX bit 10) and its threshold (bit 12).

With the filter and a count N at 03Eh the intercept of PAUSE ends L2 only when an internal counter, which VMRUN loads
with N, is used up; the threshold at 03Ch loads it again when L2 has not said PAUSE for that many cycles (APM2 15.14.4).
One passage says that the exit comes when the counter reaches zero, another when it falls below: both are right. A wrong
L0 gives L1 every PAUSE, or none, or takes its own count for L1's.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause, unchanged

SPIN = "again: inc ebx\nstart: pause\njmp again"
SPACED = """
again: inc ebx
    mov ecx, 20000
gap: dec ecx
    jnz gap
start: pause
    cmp ebx, 12
    jb again
end: vmmcall
"""


def _guest(l1, code, count, threshold=0, **options):
    vmcb = {"pause_filter_count": count, "pause_filter_threshold": threshold}
    return l1.guest(code, intercept=["pause"], regs={"rbx": 0}, vmcb=vmcb, **options)


def _exits(count):
    """How many PAUSEs L2 may have met, the one that exits included."""
    return any_of(count, count + 1) if count else 1


@clause("later_bits.pause_filter.count", "later_bits.pause_filter.absent")
@cases("count", [1, 2, 5, 100, 3000, 0xFFFF], decimal=True)
def test_count(l1, count):
    """A tight loop; the second VMRUN begins with the whole count. Without the filter the first PAUSE exits."""
    guest = _guest(l1, SPIN, count)
    expected = l1.either("PauseFilter", offered=_exits(count), absent=1)

    first = guest.run()
    second = guest.resume("again")

    same = {"pause_filter_count": unchanged, "pause_filter_threshold": unchanged}
    for exit in (first, second):
        assert exit.matches(code=VMEXIT.PAUSE, rip=guest["start"], regs={"rbx": expected}, fields=same)


@clause("later_bits.pause_filter.count", "later_bits.pause_filter.absent")
@pytest.mark.parametrize("threshold", [0, 0xFFFF], ids=["threshold0", "threshold_max"])
def test_count_of_zero(l1, threshold):
    """Every PAUSE exits."""
    guest = _guest(l1, SPIN, 0, threshold)

    assert guest.run().matches(code=VMEXIT.PAUSE, rip=guest["start"], regs={"rbx": 1})


@clause("later_bits.pause_filter.count", "later_bits.pause_filter.absent")
@pytest.mark.parametrize("mode", ["compat32", "prot32", "real16"])
def test_other_modes(l1, mode):
    guest = _guest(l1, SPIN, 4, mode=mode)

    expected = l1.either("PauseFilter", offered=_exits(4), absent=1)
    assert guest.run().matches(code=VMEXIT.PAUSE, rip=guest["start"], regs={"rbx": expected})


@clause("later_bits.pause_filter.threshold", "later_bits.pause_filter.threshold_absent")
def test_pauses_that_are_far_apart(l1):
    """A threshold of one cycle, and thousands between: the count of three is loaded again each time.

    Without the threshold they are counted all the same.
    """
    guest = _guest(l1, SPACED, 3, 1)

    exit = guest.run()

    if l1.cpuid.has("PauseFilterThreshold"):
        assert exit.reached("end", regs={"rbx": 12})
    else:
        assert exit.matches(code=VMEXIT.PAUSE, rip=guest["start"], regs={"rbx": _exits(3)})


@clause("later_bits.pause_filter.threshold")
def test_threshold_of_zero(l1):
    """The plain filter: the time between has no say."""
    guest = _guest(l1, SPACED, 3, 0)

    assert guest.run().matches(code=VMEXIT.PAUSE, rip=guest["start"], regs={"rbx": _exits(3)})


@clause("later_bits.pause_filter.without_intercept")
def test_count_without_the_intercept(l1):
    """The filter belongs to the intercept: no exit, however many."""
    code = "again: inc ebx\npause\ncmp ebx, 40\njb again\nend: vmmcall"
    guest = l1.guest(code, regs={"rbx": 0}, vmcb={"pause_filter_count": 3})

    assert guest.run().reached("end", regs={"rbx": 40})
