"""The whole suite: how long, and whose time it is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench import cpu_probe
from harness.bench.figure import Bench, Failed, Figure, NotMeasured
from harness.cli.progress import Tail
from harness.record import FILE_NAME, LOST_VERDICTS, Run, load
from harness.targets import file_name

GOAL_S = 60.0
GOAL_SLOW_LINE_S = 15 * 60.0
SLOW_BAUD = 115200
DEADLINE_S = 3600
STOP_S = 30.0
FINE = (0, 1)  # a new deviation is none of our business here
NO_VERDICT = LOST_VERDICTS | {"SKIP"}
NOT_PASSED_ON = ("PYTEST_ADDOPTS", "PYTHONPATH")


@dataclass(frozen=True)
class Ran:
    """One run of the suites."""

    took_s: float
    harness_cpu_s: float
    tests: int
    asked: int
    """Without those that were skipped."""
    first_verdict_s: float | None = None
    """From the start of pytest; the record's, so it is a little late."""


def workers(bench: Bench) -> list[Figure]:
    """With one worker and with two, and the harness's share of the first."""
    one, two = run(bench, 1), run(bench, 2)
    share = 100 * one.harness_cpu_s / one.took_s
    each_ms = 1000 * one.took_s / max(one.tests, 1)
    cpu = f"{one.harness_cpu_s:.1f} s of CPU time in pytest and its worker of {one.took_s:.1f} s, 1 worker"
    return [
        Figure(
            name="the whole suite, 1 worker",
            value=one.took_s,
            unit="s",
            detail=f"{one.tests} tests, {each_ms:.1f} ms each",
        ),
        Figure(name="the whole suite, 2 workers", value=two.took_s, unit="s", goal=GOAL_S, detail=f"{two.tests} tests"),
        Figure(name="the harness's share of it", value=share, unit="%", detail=cpu),
    ]


def slow_line(bench: Bench) -> list[Figure]:
    """The whole suite at 115200 baud, simulated by throttling the link; two workers."""
    if not bench.slow:
        raise NotMeasured("takes up to 15 minutes; say --slow")
    ran = run(bench, 2, "--baud", str(SLOW_BAUD))
    return [
        Figure(
            name=f"the whole suite at {SLOW_BAUD} baud, 2 workers",
            value=ran.took_s,
            unit="s",
            goal=GOAL_SLOW_LINE_S,
            detail=f"{ran.tests} tests",
        )
    ]


def run(bench: Bench, count: int, *more: str, target: str | None = None, paths: Sequence[str] | None = None) -> Ran:
    """One pytest over the suites (or `paths`); raises Failed if it does not end as a run does."""
    target = target or bench.target
    out = Path(tempfile.mkdtemp(prefix=f"suite-{file_name(target)}-", dir=bench.workdir))
    cpu = out / "cpu"
    cpu.mkdir()
    command = [sys.executable, "-m", "pytest", *(paths or bench.suites), "-q", "-p", "no:cacheprovider"]
    command += ["-p", cpu_probe.__name__, "--target", target, "--nsvm-out", str(out), "-n", str(count)]
    log = out / "pytest.log"
    tail = Tail(out / FILE_NAME)
    first_s: float | None = None
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    started = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, *bench.programs, *more],
            cwd=bench.root,
            env={**kept, cpu_probe.FOLDER: str(cpu)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                if time.monotonic() - started > DEADLINE_S:
                    raise Failed(f"not done after {DEADLINE_S} s")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.02 if first_s is None else 0.2)
                if first_s is None and any(map(_is_verdict, tail.poll())):
                    first_s = time.monotonic() - started
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
                process.kill()
                process.wait()
    took_s = time.monotonic() - started
    if process.returncode not in FINE:
        raise Failed(f"pytest ended with status {process.returncode}: {last_line(log)}")
    spent_s = sum(float(path.read_text()) for path in cpu.iterdir())
    record = load(out / FILE_NAME)
    asked = len({result.test for result in record.results if result.verdict not in NO_VERDICT})
    return Ran(took_s, spent_s, tests_of(record), asked, first_s)


def _is_verdict(record: Mapping[str, Any]) -> bool:
    """Whether a line of the record says how a test ended that was really run."""
    return record.get("kind") == "result" and record.get("verdict") not in NO_VERDICT


def tests_of(run: Run) -> int:
    """How many tests there were. Raises Failed where some were not run: without them the suite is soon done."""
    tests = {result.test for result in run.results}
    lost = [result for result in run.results if result.verdict in LOST_VERDICTS]
    if lost:
        one = f"{lost[0].test}: {lost[0].verdict}, {lost[0].reason}"
        raise Failed(f"{len({result.test for result in lost})} of {len(tests)} tests gave no verdict ({one})")
    if run.interrupted:
        raise Failed(f"the run was cut short: {run.interrupted[0].reason}")
    if all(result.verdict in NO_VERDICT for result in run.results):
        raise Failed(f"{len(tests)} tests were skipped, and there is no other")
    return len(tests)


def last_line(log: Path) -> str:
    """What a log says of a failure, in one line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")[:200]
