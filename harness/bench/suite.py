"""The whole suite: how long, and whose time it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.bench import cpu_probe, throttle
from harness.bench.figure import Bench, Figure, NotMeasured
from harness.record import FILE_NAME, load

GOAL_S = 60.0
GOAL_SLOW_LINE_S = 15 * 60.0
SLOW_BAUD = 115200
DEADLINE_S = 1800
FINE = (0, 1)  # a new deviation is none of our business here


@dataclass(frozen=True)
class Ran:
    """One run of the suites."""

    took_s: float
    harness_cpu_s: float
    tests: int


def workers(bench: Bench) -> list[Figure]:
    """With one worker and with two, and the harness's share of the first."""
    one, two = _run(bench, 1), _run(bench, 2)
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
    ran = _run(bench, 2, "--lane", "serial", "-p", throttle.__name__, environment={throttle.BAUD: str(SLOW_BAUD)})
    return [
        Figure(
            name=f"the whole suite at {SLOW_BAUD} baud, 2 workers",
            value=ran.took_s,
            unit="s",
            goal=GOAL_SLOW_LINE_S,
            detail=f"{ran.tests} tests",
        )
    ]


def _run(bench: Bench, count: int, *more: str, environment: Mapping[str, str] | None = None) -> Ran:
    """One pytest over the suites; raises NotMeasured if it does not end as a run does."""
    out = bench.workdir / f"suite-{count}-{len(more)}"
    cpu = bench.workdir / f"cpu-{count}-{len(more)}"
    out.mkdir()
    cpu.mkdir()
    command = [sys.executable, "-m", "pytest", *bench.suites, "-q", "-p", "no:cacheprovider", "-p", cpu_probe.__name__]
    command += ["--target", bench.target, "--nsvm-out", str(out), "-n", str(count), *bench.programs, *more]
    log = out / "pytest.log"
    started = time.monotonic()
    with open(log, "wb") as output:
        try:
            status = subprocess.run(
                command,
                cwd=bench.root,
                env={**os.environ, cpu_probe.FOLDER: str(cpu), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=DEADLINE_S,
            ).returncode
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"not done after {DEADLINE_S} s") from None
    took_s = time.monotonic() - started
    if status not in FINE:
        raise NotMeasured(f"pytest ended with status {status}: {_last_line(log)}")
    return Ran(took_s, sum(float(path.read_text()) for path in cpu.iterdir()), len(load(out / FILE_NAME).results))


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")[:200]
