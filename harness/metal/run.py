"""Commands of the lab file, run here without a shell."""

from __future__ import annotations

import shlex
import subprocess

from harness.hosts.local_command import run_here
from harness.metal.error import MetalError

DEADLINE_S = 120.0


def split(what: str, command: str) -> list[str]:
    """A command's words. Raises MetalError."""
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise MetalError(f"{what}: {error}") from None
    if not argv:
        raise MetalError(f"{what} is empty")
    return argv


def run(what: str, command: str, deadline_s: float = DEADLINE_S) -> str:
    """Runs it to its end; what it printed. Raises MetalError, which does not quote arguments: one may be a password."""
    argv = split(what, command)
    try:
        status, said = run_here(argv, deadline_s)
    except subprocess.TimeoutExpired:
        raise MetalError(f"{what}: {argv[0]} did not end within {deadline_s:.0f} s") from None
    except OSError as error:
        raise MetalError(f"{what}: {argv[0]}: {error.strerror}") from None
    if status != 0:
        last = said.strip().splitlines()[-1:] or ["it says nothing"]
        raise MetalError(f"{what}: {argv[0]} ended with {status}: {last[0][:200]}", said)
    return said
