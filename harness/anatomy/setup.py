"""What a test set, put together: for the record of a failure, bounded, and whole for `nsvm show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.anatomy.code import disassemble
from harness.anatomy.step_words import Words
from harness.guest import images
from harness.guest.guest import Guest
from harness.guest.l1 import L1, Asked
from harness.judge.exit import Exit
from harness.record import CodeLine, SetField, Setup
from harness.record.packed import pack
from harness.svm import vmcb_words
from harness.svm.vmcb import Vmcb

STEPS_MAX = 48
STEP_CHARACTERS_MAX = 200
FIELDS_MAX = 48


def gather(l1: L1) -> Setup | None:
    """What the test had set when its last VMRUN, or its last step, was asked; None if it asked nothing."""
    asked = list(l1.asked)
    if not asked:
        return None
    last = next((each for each in reversed(asked) if each.guest is not None), None)
    steps = [line[:STEP_CHARACTERS_MAX] for line in step_lines(asked)]
    if len(steps) > STEPS_MAX:
        left_out = len(steps) - STEPS_MAX
        steps = [f"... {left_out} earlier lines: ./nsvm show prints all of them", *steps[-STEPS_MAX:]]
    after = pack(bytes(l1.last_exit.vmcb.data)) if l1.last_exit is not None else ""
    if last is None or last.guest is None:
        return Setup(steps=steps)
    first = next(each for each in asked if each.guest is last.guest)
    good = known_good(last.guest)
    fields, intercepts = changed(good, Vmcb(first.vmcb)) if first.left is None else ([], [])
    later = resumed(last) if last.left is not None else []
    return Setup(
        good=good_name(last.guest), fields=fields[:FIELDS_MAX], intercepts=intercepts[:FIELDS_MAX],
        later=later[:FIELDS_MAX], steps=steps, vmcb_after=after,
    )  # fmt: skip


def known_good(guest: Guest) -> Vmcb:
    """The VMCB that the guest was made from, at the guest's own place."""
    image = Vmcb(bytearray(guest.template))
    images.move(image, guest.mode, guest.code_base, guest.stack_top)
    return image


def good_name(guest: Guest) -> str:
    """`long64, nested paging, CPL 3`."""
    image = Vmcb(bytearray(guest.template))
    extra = [*(["nested paging"] if image["np_enable"] else []), *([f"CPL {image['cpl']}"] if image["cpl"] else [])]
    return ", ".join([guest.mode, *extra])


def changed(good: Vmcb, now: Vmcb) -> tuple[list[SetField], list[str]]:
    """Fields and intercepts that differ."""
    fields = [SetField(each.name, each.good, each.now, each.bits) for each in vmcb_words.differences(good, now)]
    return fields, vmcb_words.intercepts(good, now)


def resumed(asked: Asked) -> list[SetField]:
    """What L1 changed since the exit before, intercepts as one row."""
    assert asked.left is not None
    fields, intercepts = changed(Vmcb(bytearray(asked.left)), Vmcb(bytearray(asked.vmcb)))
    return [*fields, *([SetField("intercepts", "", " ".join(intercepts))] if intercepts else [])]


def step_lines(asked: Sequence[Asked]) -> Iterator[str]:
    """The steps of these scenarios in words, a number before each scenario where there are several."""
    words = Words()
    for number, each in enumerate(asked, 1):
        prefix = f"{number}: " if len(asked) > 1 else ""
        for line in words.items(each.scenario.items, each.guest):
            yield prefix + line


def code_lines(guest: Guest, exit: Exit | None) -> list[CodeLine]:
    """All of the guest's code."""
    return disassemble(guest, exit, 10_000)
