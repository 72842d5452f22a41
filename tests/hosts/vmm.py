"""nsvm-host, built; and waiting for something to be so."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness.hosts import program


@functools.cache
def built() -> Path:
    """The program, made if it is not up to date."""
    subprocess.run(["make", "-s", "-C", str(program.PATH.parents[1])], check=True, timeout=300)
    return program.program()


def wait_until(true: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Fails if it does not become true."""
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, f"not so within {deadline_s} s"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def pid_in(path: Path) -> int:
    """The process that wrote itself down there."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())
