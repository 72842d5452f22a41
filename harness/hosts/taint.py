"""What /proc/sys/kernel/tainted says: a bit for each reason why a kernel is no longer as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from harness.hosts.problems import Grade

BITS: Final = {
    0: ("P", "a proprietary module"),
    1: ("F", "a module was loaded by force"),
    2: ("S", "a CPU out of its specification"),
    3: ("R", "a module was unloaded by force"),
    4: ("M", "a machine check"),
    5: ("B", "a bad page"),
    6: ("U", "user space asked for it"),
    7: ("D", "the kernel died: an oops or a BUG"),
    8: ("A", "an ACPI table was overridden"),
    9: ("W", "a warning"),
    10: ("C", "a staging driver"),
    11: ("I", "a workaround of a firmware bug"),
    12: ("O", "a module from outside the tree"),
    13: ("E", "an unsigned module"),
    14: ("L", "a soft lockup"),
    15: ("K", "live patched"),
    16: ("X", "an auxiliary reason of the distribution"),
    17: ("T", "built with the randstruct plugin"),
    18: ("N", "an in-kernel test ran"),
}
DIED: Final = 1 << 7
LOCKUP: Final = 1 << 14


@dataclass(frozen=True)
class Taint:
    """Bits that were not there before."""

    bits: int

    @property
    def grade(self) -> Grade:
        """An oops leaves its bit even where its text is lost."""
        if self.bits & DIED:
            return Grade.FATAL
        return Grade.STALL if self.bits & LOCKUP else Grade.NOTEWORTHY


def became(before: int, now: int) -> Taint | None:
    """The bits that came; None if none did."""
    new = now & ~before
    return Taint(new) if new > 0 else None


def describe(taint: Taint) -> str:
    """In words."""
    named = [f"{letter} ({why})" for bit, (letter, why) in BITS.items() if taint.bits >> bit & 1]
    rest = taint.bits & ~sum(1 << bit for bit in BITS)
    return ", ".join([*named, *([f"{rest:#x}"] if rest else [])])
