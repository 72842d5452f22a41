"""The program that is uploaded to hosts, and how it is called there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from harness.home import build_of
from harness.machine.base import TargetError

NAME = "nsvm-host"
PATH = build_of("host_vmm") / NAME
"""Built by `make -C guest_payloads/host_vmm`."""
EXECUTOR = "executor.elf"
DISK = "disk.img"
GUEST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def program() -> Path:
    """The program. Raises TargetError if it is not built."""
    if not PATH.is_file():
        raise TargetError(f"{PATH} is not built: make -C {PATH.parents[1]}")
    return PATH


def words(argv: Iterable[str]) -> str:
    """A command line for `sh`, whatever is in it."""
    return shlex.join(argv)


def leash(command: list[str], *, on_end: str = "", grace_ms: int = 1000) -> list[str]:
    """`command` under the leash: ended when stdin closes, and then `on_end` is run."""
    argv = [f"./{NAME}", "leash", "--grace-ms", str(grace_ms)]
    return [*argv, *(["--on-end", on_end] if on_end else []), "--", *command]


def in_workdir(workdir: str, argv: list[str]) -> str:
    """The command, in the folder where the files are; the shell makes room for it."""
    return f"cd {shlex.quote(workdir)} && exec {words(argv)}"


def check_name(name: str) -> str:
    """A guest's name. Raises TargetError: what is run with it is run as root."""
    if not GUEST_NAME.match(name):
        raise TargetError(f"{name!r} is no name for a guest")
    return name


def last_words(log: str, start: str) -> str | None:
    """The last line of a log that begins with `start`, without it."""
    found = [line[len(start) :].strip() for line in log.splitlines() if line.startswith(start)]
    return found[-1] if found else None
