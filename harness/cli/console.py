"""How the commands speak to a person: one clear line for a mistake, nothing else on the error stream."""

from __future__ import annotations

import sys

from harness.text import visible

EXIT_OK = 0
EXIT_NEW = 1
EXIT_USAGE = 2
EXIT_HARNESS = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class UserError(Exception):
    """Wrong use, or something missing: one line that says what, where and what to do. Exit status 2."""


class HarnessError(Exception):
    """Our own machinery failed: one line. Exit status 3."""


def say(text: str) -> None:
    """A line to the person, on the error stream, so that standard output stays for results.

    It may quote a log or a host: nothing in it acts on the terminal.
    """
    print(f"nsvm: {visible(text, keep=chr(10))}", file=sys.stderr, flush=True)
