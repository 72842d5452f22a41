"""A test that a person named, found, and run by pytest apart from any run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from harness.cli.collected import collected
from harness.cli.console import HarnessError, UserError
from harness.cli.paths import ROOT
from harness.names import near

DEADLINE_S = 120
SHOWN_MAX = 8


def function_of(test: str) -> str:
    """A node id without its parameters."""
    return test.partition("[")[0]


def is_named(test: str, name: str) -> bool:
    """Whether a person who says `name` may mean this test: the node id or an end of it, with or without parameters."""
    name = name.removeprefix("./")
    function = function_of(test)
    return name in (test, function, test.rpartition("::")[2], function.rpartition("::")[2], test.partition("::")[0])


def find(name: str) -> list[str]:
    """The tests of that name, in order. Raises UserError where there is none."""
    tests = [str(each["test"]) for each in collected()]
    found = [test for test in tests if is_named(test, name)]
    if not found:
        known = [*tests, *(function_of(test).rpartition("::")[2] for test in tests)]
        raise UserError(f"there is no test {name}{near(name, known)}")
    return found


def find_one(name: str) -> str:
    """The one test of that name. Raises UserError where there is none, or several, and then says some of them."""
    found = find(name)
    if len(found) > 1:
        some = ", ".join(f"'{test}'" for test in found[:SHOWN_MAX])
        more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
        raise UserError(f"{name} is {len(found)} tests, name one: {some}{more}")
    return found[0]


def run_pytest(
    arguments: Sequence[str], deadline_s: float = DEADLINE_S, environment: Mapping[str, str] | None = None
) -> str:
    """Runs pytest in a process of its own; what it printed. Raises HarnessError where it could not run the tests.

    `environment` is added to our own.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline_s,
            env=os.environ | dict(environment or {}),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HarnessError(f"the test did not end within {deadline_s:.0f} s") from None
    if done.returncode not in (0, 1):
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        complaint = next((line for line in lines if line.startswith(("ERROR", "E "))), lines[-1] if lines else "")
        raise HarnessError(f"the test cannot be run: {complaint.removeprefix('ERROR: ')[:300]}")
    return done.stdout
