"""The prompt: what was set is run, what changed is said, a mistake is one line, and what was typed becomes a test."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.guest.l1 import L1
from harness.link.session import Session
from harness.scenario.asm import Assembler
from harness.shell.prompt import Prompt
from harness.svm import Vmcb
from tests.fake_executor import FakeTarget
from tests.fake_l1 import FakeL1, Outcome, vmmcall_exit

Typed = Callable[..., str]


def outcome(vmcb: Vmcb) -> Outcome:
    """ASID 0 is refused."""
    good = vmmcall_exit(vmcb)
    if vmcb["asid"] == 0:
        good.fields["exitcode"] = (1 << 64) - 1
    return good


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Typed]:
    session = Session(FakeTarget(respond=FakeL1(outcome).respond))

    def do(*lines: str) -> str:
        out = io.StringIO()
        l1 = L1(session, Assembler(tmp_path), {})
        Prompt(l1, "qemu-tcg", io.StringIO("\n".join(lines) + "\n"), out).cmdloop()
        return out.getvalue()

    yield do
    session.close()


def test_set_run_and_see_what_changed(typed: Typed) -> None:
    said = typed("code cpuid; here: vmmcall", "intercept cpuid", "set asid 3", "set cr0 +WP -31", "show", "run", "vmcb")

    for part in (
        "asid (058h)  0000_0003h (was 0000_0001h)",
        "+WP -PG",
        "intercepts +cpuid",
        "cpuid",
        "VMMCALL at RIP",
        "exitcode (070h)",
        "-> 0000_0000_0000_0081h",
    ):
        assert part in said


def test_a_run_begins_again_and_resume_goes_on(typed: Typed) -> None:
    said = typed(
        "code vmmcall; next: vmmcall", "run", "set asid 0", "run", "unset asid", "run", "resume next cr2=1234h"
    )

    assert said.count("VMMCALL at RIP") == 3
    assert "VMEXIT_INVALID" in said


def test_memory_msrs_cpuid_and_l1(typed: Typed) -> None:
    said = typed(
        "write 900000h 01020304", "run", "read 900000h 4", "msr EFER 5h", "msr EFER", "cpuid 0", "l1 nop", "regs"
    )

    for part in (
        "00900000h  01 02 03 04",
        "EFER (C0000080h): 0000000000000005h",
        "EAX 00000001h",
        "ran to its end",
        "rbx",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("frobnicate", "there is no command frobnicate"),
        ("set asiid 3", "did you mean asid"),
        ("set asid x", "x is no number"),
        ("set asid 100000000h", "does not fit asid"),
        ("set cr0 +WPP", "cr0 has no bit WPP"),
        ("set", "set FIELD VALUE"),
        ("unset asid", "was not set"),
        ("intercept cpuidd", "did you mean cpuid"),
        ("mode long63", "long64"),
        ("np maybe", "np on"),
        ("resume", "'run' first"),
        ("vmcb", "nothing ran yet"),
        ("write 900000h zz", "write ADDRESS HEX"),
        ("read", "read ADDRESS"),
        ("msr", "msr NAME"),
        ("save x", "save FILE"),
        ("save /nowhere/x.py", "No such file"),
        ("code frob", "frob"),
    ],
)
def test_a_mistake_is_one_line(typed: Typed, line: str, said: str) -> None:
    told = typed(line)

    lines = told.splitlines()[2:]
    assert len(lines) == 1 and said in lines[0]


def test_what_was_typed_is_saved_as_a_test_that_still_asks_what_must_come(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "test_mine.py"

    said = typed(
        "mode pae32", "np on", "code vmmcall; next: vmmcall", "set asid 7", "set rbx 5", "intercept hlt",
        "write 900000h 01", "run", "resume next cr2=1", f"save {path}", f"save {path}", "quit",
    )  # fmt: skip

    text = path.read_text()
    ast.parse(text)
    for part in (
        "def test_mine(l1):",
        'l1.guest("vmmcall\\nnext: vmmcall", mode="pae32", np=True, vmcb={"asid": 0x7}, regs={"rbx": 0x5}, ',
        'intercept=["hlt"])',
        'guest.write(0x900000, bytes.fromhex("01"))',
        'exit = guest.resume("next", cr2=0x1)',
        "raise NotImplementedError",
    ):
        assert part in text
    assert "is there already" in said


def test_names_are_completed(typed: Typed, tmp_path: Path) -> None:
    session = Session(FakeTarget(respond=FakeL1().respond))
    prompt = Prompt(L1(session, Assembler(tmp_path), {}), "x", io.StringIO(), io.StringIO())

    assert "asid" in prompt.complete_set("as") and "rax" in prompt.complete_set("ra")
    assert prompt.complete_intercept("cpui") == ["cpuid"]
    assert prompt.complete_mode("lo") == ["long64"]
    assert prompt.complete_msr("VM_C") == ["VM_CR"]
    assert "run" in prompt.completenames("r") and "EOF" not in prompt.completenames("")
    session.close()
