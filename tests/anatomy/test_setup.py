"""What a test set is told in words, bounded, whatever the test did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.anatomy import page as pages
from harness.anatomy import setup
from harness.guest.l1 import L1
from harness.link.session import Session
from harness.record.packed import unpack
from harness.scenario import steps
from harness.scenario.asm import Assembler
from harness.scenario.scenario import Page
from harness.scenario.steps import Op, RaiseKind, Step, TableKind
from harness.svm import Vmcb
from tests.fake_executor import FakeTarget
from tests.fake_l1 import FakeL1


@pytest.fixture
def l1(tmp_path: Path) -> Iterator[L1]:
    session = Session(FakeTarget(respond=FakeL1().respond))
    yield L1(session, Assembler(tmp_path), {})
    session.close()


def test_fields_intercepts_steps_and_the_vmcb_after_the_exit(l1: L1) -> None:
    guest = l1.guest(
        "mov eax, [rbx]\nvmmcall", regs={"rbx": 0x90_0000}, vmcb={"iopm_base_pa": 0x81_0001}, intercept=["cpuid"]
    )
    guest.write(0x90_0000, b"\x01\x02\x03\x04")
    guest.setup("mov dr0, rax")
    exit = guest.run(vmload=True)

    found = setup.gather(l1)

    assert found is not None and found.good == "long64"
    assert [(each.name, each.now) for each in found.fields] == [("iopm_base_pa (040h)", "0000_0000_0081_0001h")]
    assert found.intercepts == ["+cpuid"]
    told = "\n".join(found.steps)
    for said in (
        "write 0090_0000h (scratch+0h): 0403_0201h",
        "L2's code, 5 bytes at 0082_0000h",
        "the VMCB at 0080_0000h",
        "mov dr0,rax",
        "VMRUN, rAX 0080_0000h (VMLOAD before, IF=1); rbx=900000h",
    ):
        assert said in told
    assert unpack(found.vmcb_after, 4096) == bytes(exit.vmcb.data)


def test_a_guest_that_runs_on_shows_what_was_changed_between(l1: L1) -> None:
    guest = l1.guest("vmmcall\nnext: vmmcall", vmcb={"asid": 3})
    guest.run()
    guest.vmcb.intercept("hlt")
    guest.resume("next", cr2=0x1234)

    found = setup.gather(l1)

    assert found is not None
    assert [each.name for each in found.fields] == ["asid (058h)"]
    names = {each.name: each.now for each in found.later}
    assert names["cr2 (640h)"].endswith("1234h") and names["intercepts"] == "+hlt"
    assert "exitcode (070h)" not in names  # it was filled again, by nobody's wish


def test_another_guest_stands_at_its_own_place(l1: L1) -> None:
    l1.guest("vmmcall").run()
    l1.guest("vmmcall", mode="real16", vmcb={"asid": 9}).run()

    found = setup.gather(l1)

    assert found is not None and found.good == "real16"
    assert [each.name for each in found.fields] == ["asid (058h)"]


def test_a_test_without_a_guest(l1: L1) -> None:
    assert setup.gather(l1) is None
    l1.wrmsr(0xC000_0080, 5)

    found = setup.gather(l1)

    assert found is not None and not found.good and not found.vmcb_after
    assert found.steps[-1] == "WRMSR EFER (C0000080h) with 0000_0000_0000_0005h"


def test_it_is_bounded(l1: L1) -> None:
    guest = l1.guest("vmmcall")
    for _ in range(100):
        guest.run()

    found = setup.gather(l1)

    assert found is not None and len(found.steps) == setup.STEPS_MAX + 1
    assert "./nsvm show" in found.steps[0]


def test_every_step_has_its_words(l1: L1) -> None:
    every = [
        steps.mem_fill(0x90_0000, 4096, 0xA5), steps.mem_read(0x90_0000, 8, "x"),
        steps.mem_copy(0x90_0000, 0x91_0000, 8),
        steps.tables(0x90_0000, TableKind.LONG), steps.cpuid(1), steps.rdmsr(0x10), steps.wrmsr(0x10, 1),
        steps.raise_event(RaiseKind.TIMER, 0x40, delay_us=5), steps.window(10, stgi=True), steps.host_state(),
        steps.cpu_start(1, [steps.rdmsr(0x10)]), steps.cpu_join(1, 5), Step(Op.FAULTS, b""),
        Page(0x90_0000, bytes(range(1, 129))), Page(0x90_0000, bytes(128)),
        Step(Op.TABLES, bytes(8) + b"\xff"), Step(Op.RAISE, b"\xff" * 8), Step(Op.VMRUN, b""),
    ]  # fmt: skip

    lines = list(setup.Words().items(every, None))

    assert len(lines) == len(every) + 1
    assert sum("that cannot be" in line for line in lines) == 3
    for said in (
        "fill 4096 bytes", "(x)", "copy 8 bytes", "long-mode identity map", "CPUID 0000_0001h", "TSC", "in 5 us",
        "STGI first", "CPU 1 begins", "    RDMSR", "wait for CPU 1",
    ):  # fmt: skip
        assert any(said in line for line in lines)


def test_the_page_of_a_test(l1: L1) -> None:
    guest = l1.guest("start: cpuid\nvmmcall", vmcb={"asid": 7})
    guest.run()
    guest.resume(cr2=1)

    told = "\n".join(pages.page(list(l1.asked)))

    for said in ("scenario 1", "asid (058h)", "cpuid", "start:", "scenario 2", "cr2 (640h)"):
        assert said in told
    assert told.count("L2's code (long64)") == 1


def test_a_packed_vmcb_comes_back_and_nothing_else_does() -> None:
    from harness.record.packed import pack

    assert unpack(pack(bytes(Vmcb().data)), 4096) == bytes(4096)
    for text in ("", "x", pack(bytes(4095)), pack(bytes(1 << 20)), pack(bytes(4096))[:-8], "é"):
        assert unpack(text, 4096) is None
