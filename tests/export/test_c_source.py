"""The C file: it says what it does, builds with warnings as errors, and comes to the same verdict."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.cli import one_test
from harness.command import main
from harness.export import c_source
from harness.export.captured import Captured
from harness.export.check import Check, Source
from harness.export.image import ExportError
from harness.judge.clauses import Clause
from harness.judge.expect import Wanted
from harness.link.session import prelude
from harness.scenario import steps
from harness.scenario.scenario import Page, Templates, compile_items
from harness.scenario.steps import RaiseKind, Step, VmrunFlag
from harness.svm import make_template
from harness.targets import create
from tests.export.test_on_emulators import DEVIATES, options, printed

CLAUSE = Clause("core.x", "A sentence that ends a comment */ here.", "15.5", trust=("APM",))


def told(*more: Step, checks: list[Check] | None = None) -> Captured:
    image = make_template("long64", rip=0x82_0000, rsp=0x85_8000, iopm_pa=0x81_0000, msrpm_pa=0x81_4000, cr3=0x88_0000)
    template = bytes(image.data)
    image["asid"] = 7
    items = [
        *steps.mem_write(0x82_0000, bytes.fromhex("0f01d9 cccccccc")),
        Page(0x80_0000, bytes(image.data), template),
        Page(0x90_0000, bytes(1000) + b"\x05" * 24, bytes(1024)),
        steps.vmrun(0x80_0000, VmrunFlag.IF | VmrunFlag.VMLOAD, {"rbx": 5}),
        *more,
    ]
    requests = [steps.encode_list(prelude()), steps.encode_list(compile_items(items, Templates()))]
    return Captured("t", ["core.x"], requests, checks or [], page=["scenario"], verdict="PASS", machine="m")


def test_steps_and_vmcb_can_be_read() -> None:
    check = Check("exitcode (070h)", Source.MEMORY, Wanted((0x81,), (1 << 64) - 1, 8), 1, 0, 0x80_0070)

    text = c_source.source(told(checks=[check]), [CLAUSE])

    for said in (
        "Reproducer of t.",
        "core.x: A sentence that ends a comment * / here.",
        "vmmcall */",
        "set(0x800000 + 0x058, 4, 0x7); /* asid */",
        "set(0x800000 + 0x010, 4, 0x3); /* intercept_misc2: vmrun vmmcall */",
        "fill(0x900000, 1024, 0x00);",
        "regs[3] = 0x5; /* RBX */",
        "vmrun(0x800000, VMLOAD | IF);",
        'EXPECT("exitcode (070h)", get(0x800070, 8), 0xffffffffffffffff, 0x81);',
    ):
        assert said in text
    assert "@head@" not in text and "@scenario@" not in text
    assert not re.search(r"0x8c[0-9a-f]{4}", text), "templates are the harness's own affair"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (steps.raise_event(RaiseKind.NMI_SELF), "raises interrupts"),
        (steps.cpu_start(1, []), "second CPU"),
        (steps.code(0x86_0010, {}, interrupts=True), "interrupts on"),
    ],
)
def test_what_the_skeleton_cannot_do_is_refused(step: Step, why: str) -> None:
    with pytest.raises(ExportError, match=why):
        c_source.source(told(step), [CLAUSE])


def test_l1s_state_is_not_seen() -> None:
    check = Check("L1's CR3", Source.HOST, Wanted((1,), 1, 8), 1, 0)

    with pytest.raises(ExportError, match="L1's CR3"):
        c_source.source(told(checks=[check]), [CLAUSE])


def build(folder: Path) -> Path:
    """By the lines that the file itself gives, with warnings as errors."""
    text = (folder / "reproducer.c").read_text()
    lines = re.search(r"^ \*   (gcc .*?)\n \*   (objcopy [^\n]*)", text, re.DOTALL | re.MULTILINE)
    assert lines
    gcc = lines[1].replace("\\\n *", " ").replace("gcc ", "gcc -Wall -Wextra -Werror ", 1)
    for command in (gcc, lines[2]):
        done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return folder / "reproducer.elf"


@pytest.mark.emulator
def test_it_builds_and_comes_to_the_same_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_test, "collected", lambda: [{"test": DEVIATES}])
    assert main(["export", DEVIATES, "--format", "c", "-o", str(tmp_path)]) == 0

    lines = printed(create("qemu-tcg", options(tmp_path, build(tmp_path))))

    assert lines[-1] == "Test result: FAILURE"
    assert any(line.startswith("  FAIL exitcode (070h): expected") for line in lines)


@pytest.mark.emulator
def test_one_that_holds(tmp_path: Path) -> None:
    check = Check("exitcode (070h)", Source.MEMORY, Wanted((0x81,), (1 << 64) - 1, 8), 1, 0, 0x80_0070)
    (tmp_path / "reproducer.c").write_text(c_source.source(told(checks=[check]), [CLAUSE]))

    lines = printed(create("qemu-tcg", options(tmp_path, build(tmp_path))))

    assert lines[-2:] == ["  ok   exitcode (070h)", "Test result: SUCCESS"]
