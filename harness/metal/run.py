"""Commands of the lab file, run here without a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile

from harness.hosts.login import PASSWORD_VARIABLE
from harness.metal.error import MetalError
from harness.text import printable

DEADLINE_S = 120.0
OUTPUT_KEPT = 8192


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
        # A file and not a pipe: what the command leaves running must not be waited for.
        with tempfile.TemporaryFile() as output:
            ran = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=deadline_s,
                env={name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE},
            )
            output.seek(max(output.seek(0, os.SEEK_END) - OUTPUT_KEPT, 0))
            said = printable(output.read(OUTPUT_KEPT), OUTPUT_KEPT)
    except subprocess.TimeoutExpired:
        raise MetalError(f"{what}: {argv[0]} did not end within {deadline_s:.0f} s") from None
    except OSError as error:
        raise MetalError(f"{what}: {argv[0]}: {error.strerror}") from None
    if ran.returncode != 0:
        last = said.strip().splitlines()[-1:] or ["it says nothing"]
        raise MetalError(f"{what}: {argv[0]} ended with {ran.returncode}: {last[0][:200]}", said)
    return said
