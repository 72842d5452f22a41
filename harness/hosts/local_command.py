"""A command of the lab file, run here without a shell."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence

from harness.hosts.login import PASSWORD_VARIABLE
from harness.text import printable

OUTPUT_KEPT = 8192


def run_here(argv: Sequence[str], deadline_s: float) -> tuple[int, str]:
    """Its exit status, and the end of what it printed. It does not see the password that nsvm was given.

    Raises subprocess.TimeoutExpired, OSError.
    """
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
        return ran.returncode, printable(output.read(OUTPUT_KEPT), OUTPUT_KEPT)
