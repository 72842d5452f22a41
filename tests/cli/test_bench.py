"""`nsvm bench`: figures and goals; what is measured on a machine is tested with one."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from elftools.elf.elffile import ELFFile

from harness import bench
from harness.bench import Bench, Failed, Figure, NotMeasured, boot, cpu_probe, rates, suite, turns
from harness.bench.boot import trivial_image
from harness.bench.command import line
from harness.cli import machine
from harness.command import main
from harness.link.link_error import LinkError
from harness.link.session import ExecutorRefused, TargetLost
from harness.machine.base import Capabilities, Target, TargetError
from harness.record import Interrupted, Result, RunStart, Writer
from harness.scenario.asm import AssemblyError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("value", "goal", "more", "reached"),
    [
        (1.2, 1.3, False, True),
        (1.4, 1.3, False, False),
        (120, 100, True, True),
        (80, 100, True, False),
        (None, 1, True, None),
        (5, None, True, None),
    ],
)
def test_a_goal_is_reached_or_not(value: float | None, goal: float | None, more: bool, reached: bool | None) -> None:
    figure = Figure(name="f", value=value, unit="s", goal=goal, more_is_better=more)

    assert figure.reached is reached
    assert ("NOT reached" in line(figure)) == (reached is False)
    assert figure.as_json()["reached"] is reached


def test_the_trivial_image_is_a_32_bit_multiboot_image(tmp_path: Path) -> None:
    image = trivial_image(tmp_path)

    with open(image, "rb") as file:
        elf = ELFFile(file)
        assert elf.elfclass == 32
        text = elf.get_section_by_name(".text").data()
        assert elf.header["e_entry"] == elf.get_section_by_name(".text")["sh_addr"] + 12
    magic, flags, checksum = (int.from_bytes(text[at : at + 4], "little") for at in (0, 4, 8))
    assert magic == 0x1BADB002
    assert (magic + flags + checksum) & 0xFFFF_FFFF == 0


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> None:
    def good(_bench: object) -> list[Figure]:
        return [Figure(name="boots", value=2.0, unit="s", goal=1.0)]

    def cannot(_bench: object) -> list[Figure]:
        raise NotMeasured("there is no such thing here")

    monkeypatch.setattr(machine, "prepare", lambda *_a, **_k: None)
    monkeypatch.setattr(machine, "make_target", lambda *_a, **_k: FakeTarget())
    monkeypatch.setattr(bench, "MEASURES", {"good": good, "cannot": cannot, "broken": failing(LinkError("gone"))})


def failing(error: Exception) -> bench.Measure:
    def measure(_bench: object) -> list[Figure]:
        raise error

    return measure


class FakeTarget:
    """A target that notes what becomes of it; its start fails where `fails` is set."""

    made: ClassVar[list[FakeTarget]] = []

    name = "fake"

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.held = False
        self.made.append(self)

    def start(self) -> Any:
        self.held = True
        if self.fails:
            raise TargetError("no machine today")
        return SimpleNamespace(read=lambda _s: boot.WORD)

    def stop(self) -> None:
        """The boot ends, and what is held stays."""

    def close(self) -> None:
        self.held = False

    def version(self) -> str:
        return "fake 1.0"

    def lane_memory(self) -> None:
        """There is none."""

    def exit_reason(self) -> None:
        """It never ends."""

    def log_tail(self) -> str:
        return ""

    def capabilities(self) -> Capabilities:
        return Capabilities(True, 1, True, boot_deadline_s=5.0, round_trip_s=0.001)


def test_figures_are_told_reached_or_not(measures: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--only", "good", "--only", "cannot"]) == 0

    told = capsys.readouterr().out
    assert "at most 1 s: NOT reached" in told
    assert "not measured: there is no such thing here" in told
    assert told.count("load average") == 2


def test_a_measure_that_fails_is_told_and_is_3(measures: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json"]) == 3

    told = json.loads(capsys.readouterr().out)
    assert [figure["measure"] for figure in told["figures"]] == ["good", "cannot", "broken"]
    assert told["figures"][0]["reached"] is False
    assert told["figures"][2]["detail"] == "failed: gone"
    assert len(told["load_average"]) == 2


@pytest.mark.parametrize(
    "error",
    [
        Failed("it did not"),
        AssemblyError("no such instruction"),
        ExecutorRefused("step"),
        subprocess.CalledProcessError(1, ["as"]),
        OSError("disk full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_measure_fails_of_the_others_are_told(
    measures: None, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench.MEASURES, "broken", failing(error))  # type: ignore[arg-type]

    assert main(["bench", "--json"]) == 3

    told = json.loads(capsys.readouterr().out)
    assert told["figures"][0]["value"] == 2.0
    assert told["figures"][2]["detail"] == f"failed: {error}"


def context(tmp_path: Path, target: str = "qemu-tcg", *, slow: bool = False) -> Bench:
    def never(**_more: object) -> Target:
        raise AssertionError("nothing is to be started")

    return Bench(target, never, never, tmp_path, tmp_path, slow=slow)  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", ["sim-first", "ssh-echo", "sim-suite"])
@pytest.mark.parametrize(
    ("target", "told"), [("qemu-tcg", "./nsvm sim build kvm"), ("sim:xen", "./nsvm sim build xen")]
)
def test_a_simulated_host_that_is_not_built_is_not_measured(
    measure: str, target: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSVM_SIM", str(tmp_path / "none"))

    with pytest.raises(NotMeasured) as caught:
        bench.MEASURES[measure](context(tmp_path, target, slow=True))

    assert "not built" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("measure", ["slow-line", "sim-suite"])
def test_what_takes_many_minutes_is_measured_when_asked_for(measure: str, tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="say --slow"):
        bench.MEASURES[measure](context(tmp_path))


def no_link(*_arguments: object, **_more: object) -> Any:
    raise LinkError("nobody there")


@pytest.mark.parametrize("fails", [False, True], ids=["starts", "does not start"])
@pytest.mark.parametrize("measure", [boot.measure, rates.uart, rates.memory, rates.bundle, rates.vmrun_loop])
def test_a_measure_leaves_no_target_held(
    measure: bench.Measure, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTarget, "made", [])
    monkeypatch.setattr(boot, "Link", lambda *_a, **_k: SimpleNamespace(hello=lambda _s: None))
    for place in ("harness.link.session.Link", "harness.bench.rates.Link"):
        monkeypatch.setattr(place, no_link)

    def make(**_more: object) -> Target:
        return FakeTarget(fails=fails)  # type: ignore[return-value]

    if fails or measure is not boot.measure:
        with pytest.raises((TargetError, TargetLost, LinkError)):
            measure(Bench("fake", make, make, tmp_path, tmp_path, rounds=2))  # type: ignore[arg-type]
    else:
        boots = measure(Bench("fake", make, make, tmp_path, tmp_path, rounds=2))[0]  # type: ignore[arg-type]
        assert boots.detail.startswith("2 times")
    assert FakeTarget.made
    assert not any(target.held for target in FakeTarget.made)


PYTEST = """import os, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--nsvm-out") + 1])
assert not {"PYTEST_ADDOPTS", "PYTHONPATH"} & set(os.environ)
(out / "run.jsonl").write_bytes(Path(sys.argv[0]).with_suffix(".jsonl").read_bytes())
"""


@pytest.fixture
def run_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measures a run of the suites that leaves these records."""

    def go(*records: Result | Interrupted) -> suite.Ran:
        monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
        monkeypatch.setenv("PYTHONPATH", "/nonexistent")
        with Writer(tmp_path / "pytest.jsonl") as writer:
            for record in (RunStart(run_id="1", started=""), *records):
                writer.write(record)
        (tmp_path / "pytest.py").write_text(PYTEST)
        python = tmp_path / "python"
        python.write_text(
            f'#!/bin/sh\nshift 2\nexec {shlex.join([sys.executable, str(tmp_path / "pytest.py")])} "$@"\n'
        )
        python.chmod(0o755)
        monkeypatch.setattr(suite.sys, "executable", str(python))
        return suite.run(context(tmp_path), 1)

    return go


def result(test: str, verdict: str) -> Result:
    return Result(test=test, target="fake", verdict=verdict, reason="so it is")


def test_a_suite_counts_its_tests(run_suite: Any) -> None:
    ran = run_suite(result("a", "PASS"), result("b", "SKIP"), result("c", "FAIL"))

    assert ran.tests == 3
    assert ran.first_verdict_s is not None


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([result("a", "MISS"), result("b", "ERROR")], r"2 of 2 tests gave no verdict \(a: MISS, so it is\)"),
        ([result("a", "PASS"), result("b", "ERROR")], r"1 of 2 tests gave no verdict \(b: ERROR, so it is\)"),
        ([result("a", "PASS"), Interrupted(reason="SIGTERM")], "cut short: SIGTERM"),
        ([result("a", "SKIP")], "1 tests were skipped, and there is no other"),
        ([], "0 tests were skipped"),
    ],
    ids=["all lost", "one lost", "cut short", "all skipped", "none"],
)
def test_a_suite_without_verdicts_is_no_figure(run_suite: Any, records: list[Any], told: str) -> None:
    with pytest.raises(Failed, match=told):
        run_suite(*records)


def a_checkout(folder: Path, log: Path, seconds: float, verdict: str = "PASS") -> Path:
    """A checkout whose ./nsvm takes that CPU time and leaves one result."""
    folder.mkdir()
    with Writer(folder / "pytest.jsonl") as writer:
        for record in (RunStart(run_id="1", started=""), result("a", verdict)):
            writer.write(record)
    (folder / "nsvm").write_text(
        f"#!{sys.executable}\n"
        "import sys, time\nfrom pathlib import Path\n"
        f"with open({str(log)!r}, 'a') as log: print({folder.name!r}, sys.argv[1], file=log)\n"
        "if sys.argv[1] == 'run':\n"
        f"    while time.process_time() < {seconds}: pass\n"
        "    out = Path(sys.argv[sys.argv.index('--out') + 1])\n"
        f"    out.mkdir()\n    (out / 'run.jsonl').write_bytes(Path({str(folder / 'pytest.jsonl')!r}).read_bytes())\n"
    )
    (folder / "nsvm").chmod(0o755)
    (folder / "suites" / "np").mkdir(parents=True)
    (folder / "suites" / "np" / "clauses.toml").touch()
    return folder


def test_a_slower_checkout_is_seen_and_both_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ours, theirs = (a_checkout(tmp_path / name, log, s) for name, s in (("ours", 1.0), ("theirs", 0.2)))
    bench_here = dataclasses.replace(context(tmp_path), root=ours, against=theirs, rounds=2)

    wall, cpu = turns.against(bench_here)

    assert [line.split() for line in log.read_text().splitlines()] == [
        ["ours", "caps"], ["theirs", "caps"], *[["ours", "run"], ["theirs", "run"]] * 2,
    ]  # fmt: skip
    assert cpu.value is not None and wall.value is not None
    assert 2 < cpu.value < 8
    assert wall.value > 1.5
    assert cpu.reached is False


def test_another_checkout_without_verdicts_is_no_figure(tmp_path: Path) -> None:
    ours, theirs = (
        a_checkout(tmp_path / name, tmp_path / "log", 0, verdict)
        for name, verdict in (("ours", "PASS"), ("theirs", "MISS"))
    )

    with pytest.raises(Failed, match="1 of 1 tests gave no verdict"):
        turns.against(dataclasses.replace(context(tmp_path), root=ours, against=theirs))


def test_only_suites_that_both_have_are_compared(tmp_path: Path) -> None:
    ours, theirs = (a_checkout(tmp_path / name, tmp_path / "log", 0) for name in ("ours", "theirs"))
    (ours / "suites" / "np").rename(ours / "suites" / "nrips")

    with pytest.raises(NotMeasured, match="none of the suites here"):
        turns.against(dataclasses.replace(context(tmp_path), root=ours, against=theirs))


def test_without_another_checkout_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="--against DIR"):
        turns.against(context(tmp_path))


def test_what_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--against", str(tmp_path)]) == 2

    assert "it holds no ./nsvm" in capsys.readouterr().err


@pytest.mark.parametrize(("verdict", "counts"), [("PASS", True), ("CRASH", True), ("MISS", False), ("SKIP", False)])
def test_the_first_verdict_is_one_of_a_test_that_was_run(verdict: str, counts: bool) -> None:
    assert suite._is_verdict({"kind": "result", "verdict": verdict}) == counts
    assert not suite._is_verdict({"kind": "target", "verdict": verdict})


def test_the_cpu_time_of_the_report_counts(tmp_path: Path) -> None:
    """As in the project's own conftest, the report is rendered by the last hook that there is."""
    (tmp_path / "conftest.py").write_text(
        "import os, pytest\nfrom pathlib import Path\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_unconfigure():\n    Path('early').write_text(str(len(os.listdir('cpu'))))\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    (tmp_path / "cpu").mkdir()
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), "-q", "-p", "no:cacheprovider", "-p", cpu_probe.__name__],
        cwd=tmp_path, env={**os.environ, cpu_probe.FOLDER: str(tmp_path / "cpu")}, capture_output=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert (tmp_path / "early").read_text() == "0"
    assert len(list((tmp_path / "cpu").iterdir())) == 1
