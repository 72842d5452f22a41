"""CODE's watchdog: it ends a guest that the blob enters, and leaves nothing behind that would end the next one."""

from __future__ import annotations

import pytest

from harness.scenario import places, steps
from harness.scenario.steps import Op, Status, Step, VmrunFlag
from tests.executor.machines import Blobs, Machine
from tests.executor.test_vmrun import EXIT_INTR, EXIT_VMMCALL, HANG, MASKED, VMCB, VMMCALL, enter, prepare

pytestmark = pytest.mark.emulator

ENTER = "sti\nclgi\nvmrun\nstgi"


def run(machine: Machine, blobs: Blobs, text: str, **options: int) -> steps.CodeAnswer:
    blobs.place(machine, text)
    return steps.decode_code(machine.run(steps.code(places.L1_CODE, {"rax": VMCB}, **options))[0])


def exitcode(machine: Machine) -> int:
    return int.from_bytes(machine.run(steps.mem_read(VMCB + 0x70, 8))[0].body, "little")


def test_it_ends_an_endless_guest_and_says_so(machine: Machine, blobs: Blobs) -> None:
    prepare(machine, HANG, MASKED)

    answer = run(machine, blobs, ENTER, watchdog_ms=50)

    assert answer.watchdog
    assert (answer.fault, exitcode(machine)) == (None, EXIT_INTR)
    image = prepare(machine, VMMCALL, MASKED)
    assert enter(machine, image, VmrunFlag.IF).vmcb["exitcode"] == EXIT_VMMCALL, "nothing waits any more"


def test_it_is_silent_where_the_blob_ends_by_itself(machine: Machine, blobs: Blobs) -> None:
    prepare(machine, VMMCALL, MASKED)

    answer = run(machine, blobs, ENTER, watchdog_ms=5000)

    assert not answer.watchdog
    assert (answer.events, exitcode(machine)) == ([], EXIT_VMMCALL)


def test_what_the_blob_left_waiting_is_taken_after_it(machine: Machine, blobs: Blobs) -> None:
    answer = run(machine, blobs, "mov ecx, 0xFEE00300\nmov dword ptr [rcx], 0x44051", watchdog_ms=5000)

    assert [(event.vector, event.phase) for event in answer.events] == [(0x51, steps.Phase.AFTER_STGI)]


@pytest.mark.parametrize("flags", [4, 0x8000], ids=["bit2", "bit15"])
def test_other_flags_are_refused(machine: Machine, flags: int) -> None:
    good = steps.code(places.L1_CODE, {})

    assert (
        machine.status(Step(Op.CODE, good.body[:8] + flags.to_bytes(4, "little") + good.body[12:])) is Status.BAD_STEP
    )
