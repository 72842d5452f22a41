"""Two ways to run the same tests, in turns, so that what else the machine does hits both: `nsvm run` here and in
another checkout, and `nsvm run` of one test against a pytest of it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bench.figure import Bench, Failed, Figure, NotMeasured, median, spread
from harness.bench.suite import DEADLINE_S, FINE, NO_VERDICT, NOT_PASSED_ON, last_line, tests_of
from harness.record import FILE_NAME, load

GOAL_ONE_TEST = 1.5
GOAL_AGAINST = 1.05
"""No slower: two runs of the same code differ by so much."""
ONE_TEST = "suites/core/test_tlb_asid.py::test_asid_runs"
ROUNDS_MAX = 3


@dataclass(frozen=True)
class Took:
    """What a command took, with all the processes that it started and waited for."""

    wall_s: float
    cpu_s: float
    tests: int
    """That were asked and gave a verdict."""


def one_test(bench: Bench) -> list[Figure]:
    """One test by `nsvm run` against pytest alone: what the wrapper costs a person who waits for one answer."""
    options = ["--target", bench.target, *bench.programs]
    wrapped = [str(bench.root / "nsvm"), "run", ONE_TEST, *options, "--out"]
    plain = [sys.executable, "-m", "pytest", ONE_TEST, *options, "--nsvm-out"]
    both = [(_took(bench, wrapped), _took(bench, plain)) for _ in range(1 + bench.rounds)]
    ours, bare = zip(*both[1:], strict=True)
    return [
        _ratio("nsvm run of one test, times pytest, wall time", ours, bare, GOAL_ONE_TEST, cpu=False),
        _ratio("nsvm run of one test, times pytest, CPU time", ours, bare, GOAL_ONE_TEST, cpu=True),
    ]


def against(bench: Bench) -> list[Figure]:
    """The suites that both have with two workers, here and in another checkout: the time for a test that was asked."""
    if bench.against is None:
        raise NotMeasured("which other checkout? say --against DIR")
    both_have = sorted(_suites(bench.root) & _suites(bench.against))
    if not both_have:
        raise NotMeasured(f"{bench.against} has none of the suites here")
    here, there = (
        [str(root / "nsvm"), "run", *both_have, "--target", bench.target, *bench.programs, "-n", "2", "--out"]
        for root in (bench.root, bench.against)
    )
    for command in (here, there):  # each makes its environment and its executor before it counts
        _run(bench, [command[0], "caps", "--target", bench.target, *bench.programs])
    both = [(_took(bench, here), _took(bench, there)) for _ in range(min(bench.rounds, ROUNDS_MAX))]
    ours, theirs = zip(*both, strict=True)
    what = f"{', '.join(both_have)}, 2 workers, times {bench.against}"
    return [
        _ratio(f"{what}, wall time for a test", ours, theirs, GOAL_AGAINST, cpu=False),
        _ratio(f"{what}, CPU time for a test", ours, theirs, GOAL_AGAINST, cpu=True),
    ]


def _suites(root: Path) -> set[str]:
    return {f"suites/{path.parent.name}" for path in root.glob("suites/*/clauses*.toml")}


def _ratio(name: str, ours: Sequence[Took], theirs: Sequence[Took], goal: float, *, cpu: bool) -> Figure:
    one, other = ([took.cpu_s if cpu else took.wall_s for took in each] for each in (ours, theirs))
    tests, of_theirs = ours[0].tests, theirs[0].tests
    detail = f"{_of(tests, one)}, to {_of(of_theirs, other)}"
    value = median(one) / tests / (median(other) / of_theirs)
    return Figure(name=name, value=value, unit="x", goal=goal, detail=detail)


def _of(tests: int, seconds: Sequence[float]) -> str:
    return f"{tests} test{'s' if tests != 1 else ''} in {median(seconds):.3g} s ({spread(seconds, 's')})"


def _took(bench: Bench, command: Sequence[str]) -> Took:
    """Runs it with a run folder behind it. Raises Failed where a test gave no verdict."""
    out = Path(tempfile.mkdtemp(prefix="turn-", dir=bench.workdir)) / "run"
    before_s, started = _cpu_s(), time.monotonic()
    _run(bench, [*command, str(out)])
    wall_s, cpu_s = time.monotonic() - started, _cpu_s() - before_s
    run = load(out / FILE_NAME)
    tests_of(run)
    return Took(wall_s, cpu_s, len({result.test for result in run.results if result.verdict not in NO_VERDICT}))


def _run(bench: Bench, command: Sequence[str]) -> None:
    log = bench.workdir / "turn.log"
    with open(log, "wb") as output:
        done = subprocess.run(
            command,
            cwd=bench.root,
            env={name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
        )
    if done.returncode not in FINE:
        raise Failed(f"{' '.join(command[:4])} ended with status {done.returncode}: {last_line(log)}")


def _cpu_s() -> float:
    """What ended children took, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
