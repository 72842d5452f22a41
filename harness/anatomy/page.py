"""All that a test set, as text: each of its scenarios, VMCBs and code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.anatomy.setup import changed, code_lines, good_name, known_good, resumed
from harness.anatomy.step_words import Words
from harness.guest.guest import Guest
from harness.guest.l1 import Asked
from harness.record import CodeLine, Setup
from harness.svm.vmcb import Vmcb

SCENARIOS_MAX = 40


def page(asked: Sequence[Asked]) -> list[str]:
    """Scenario by scenario: L1's steps, the VMCB as it differs from the known-good one, and each guest's code once."""
    lines: list[str] = []
    words = Words()
    seen: list[Guest] = []
    for number, each in enumerate(asked[:SCENARIOS_MAX], 1):
        lines.append(f"scenario {number}" if len(asked) > 1 else "scenario")
        lines += [f"  {line}" for line in words.items(each.scenario.items, each.guest)]
        if each.guest is not None:
            lines += [f"  {line}" for line in _guest(each, each.guest, new=each.guest not in seen)]
            seen.append(each.guest)
        lines.append("")
    if len(asked) > SCENARIOS_MAX:
        lines += [f"... and {len(asked) - SCENARIOS_MAX} more scenarios", ""]
    return lines


def _guest(asked: Asked, guest: Guest, *, new: bool) -> Iterator[str]:
    if asked.left is not None:
        yield from Setup(later=resumed(asked)).words()
        return
    fields, intercepts = changed(known_good(guest), Vmcb(bytearray(asked.vmcb)))
    yield from Setup(good=good_name(guest), fields=fields, intercepts=intercepts).words()
    if new:
        yield f"L2's code ({guest.mode}):"
        yield from code_text(code_lines(guest, None))


def code_text(lines: Sequence[CodeLine]) -> list[str]:
    """Code with addresses, bytes and marks in columns."""
    return [f"  {line.addr}  {line.bytes:<30} {line.text:<36} {line.mark}".rstrip() for line in lines]
