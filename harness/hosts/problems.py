"""Which lines of L0's own log say that L0 failed, and which are worth telling.

Judged is only what L0 itself said. In the kernel's log that is what has the kernel's facility (kernel_log.py sees to
it), in Xen's what begins with `(XEN)`: what a guest prints through Xen begins with `(d5)`. All patterns hold at the
beginning of a message and nowhere else, so that a name of a process or a word of a guest in its middle means nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Grade(IntEnum):
    """How bad a line is."""

    NOTEWORTHY = 1
    STALL = 2
    """A CPU of L0 made no progress: fatal on hardware; on an emulated host it may be the emulator that was slow."""
    FATAL = 3


@dataclass(frozen=True)
class Problem:
    """One line of L0's log that says something is wrong."""

    grade: Grade
    line: str


LINE_MAX: Final = 400

_PREFIX = re.compile(r"(?:<\d{1,3}>)?(?:\[ *\d+\.\d+\])?(?:\[ *[TC]\d+\])? ?")
_XEN = re.compile(r"\(XEN\) (?:\[[^\]]{1,40}\] )?")

_KERNEL: Final = (
    (Grade.STALL, r"(?:NMI )?watchdog: (?:BUG: soft lockup|Watchdog detected hard LOCKUP)|BUG: workqueue lockup"),
    (Grade.STALL, r"(?:rcu: )?INFO: rcu\w* (?:self-)?detected (?:expedited )?stall"),
    (Grade.FATAL, r"(?:watchdog: )?BUG: |kernel BUG at |Kernel panic - |Oops: |Oops\[|KASAN: |UBSAN: |KFENCE: "),
    (Grade.FATAL, r"(?:traps: )?PANIC: |Internal error: |stack-protector: "),
    (Grade.FATAL, r"[A-Za-z][^:\[]{2,60}: [0-9a-f]{4,16} \[#\d+\]"),
    (Grade.FATAL, r"general protection fault, |general protection fault: [0-9a-f]{4}"),
    (Grade.NOTEWORTHY, r"WARNING: |INFO: task .{1,60} blocked for more than|unchecked MSR access error"),
    (Grade.NOTEWORTHY, r"list_(?:add|del) corruption|refcount_t: |Out of memory: |oom-kill:|mce: \[Hardware Error\]"),
    (Grade.NOTEWORTHY, r"(?:traps: )?\S{1,32}\[\d+\]:? (?:segfault at|general protection|trap )"),
    (Grade.NOTEWORTHY, r"(?:kvm|kvm_amd|SVM)(?: \[\d+\])?: .*(?:unexpected|failed|inconsistent|leak|\bbug\b)"),
)  # fmt: skip
_HYPERVISOR: Final = (
    (Grade.STALL, r"Watchdog timer detects that CPU\d+ is stuck"),
    (Grade.FATAL, r"Panic on CPU \d+|FATAL TRAP: |FATAL PAGE FAULT|Xen BUG at |Assertion '|UBSAN: "),
    (Grade.FATAL, r"domain_crash called |Domain \d+ \(vcpu#\d+\) crashed |domain_crash_sync called "),
    (Grade.NOTEWORTHY, r"Xen WARN at |\S+: VMRUN failed|.{0,40}\bVMEXIT_INVALID|Domain \d+ reported crashed by"),
)  # fmt: skip


def _compile(rules: tuple[tuple[Grade, str], ...]) -> tuple[re.Pattern[str], dict[str, Grade]]:
    names = {f"g{number}": grade for number, (grade, _) in enumerate(rules)}
    return re.compile("|".join(f"(?P<g{n}>{pattern})" for n, (_, pattern) in enumerate(rules))), names


_KERNEL_ANY, _KERNEL_GRADES = _compile(_KERNEL)
_XEN_ANY, _XEN_GRADES = _compile(_HYPERVISOR)


def grade_of(line: str) -> Grade | None:
    """How bad one line is, as the kernel or Xen prints it; None if it is not bad."""
    line = line[:LINE_MAX]
    if xen := _XEN.match(line):
        found, grades = _XEN_ANY.match(line, xen.end()), _XEN_GRADES
    else:
        prefix = _PREFIX.match(line)
        found, grades = _KERNEL_ANY.match(line, prefix.end() if prefix else 0), _KERNEL_GRADES
    return grades[found.lastgroup] if found and found.lastgroup else None


def problems(text: str) -> list[Problem]:
    """The bad lines of a text that L0 alone wrote: its serial console, its log. Only "\\n" ends a line."""
    found = []
    for line in text.split("\n"):
        line = line.rstrip("\r")
        grade = grade_of(line)
        if grade is not None:
            found.append(Problem(grade, line[:LINE_MAX]))
    return found


def first_fatal(text: str, *, stalls: bool = True) -> str | None:
    """The first line of such a text that says L0 failed; None if none does."""
    worst = Grade.STALL if stalls else Grade.FATAL
    return next((problem.line for problem in problems(text) if problem.grade >= worst), None)
