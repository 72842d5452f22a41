"""One run at a time on a machine: a lock in a folder that all who drive it share."""

from __future__ import annotations

import fcntl
import getpass
import os
import socket
import tempfile
import time
from pathlib import Path

from harness.metal.error import MetalError
from harness.text import printable

FOLDER = "NSVM_LEASES"
"""Variable with the folder; default: nsvm-leases in the temporary one."""


class Lease:
    """Held until release(), or the process' end: the kernel gives the lock back."""

    def __init__(self, name: str) -> None:
        folder = Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / "nsvm-leases")
        self._name = name
        self._path = folder / f"metal-{name}"
        self._fd = -1

    def take(self) -> None:
        """Takes it; nothing where it is held. Raises MetalError, which names the holder."""
        if self._fd >= 0:
            return
        try:
            self._path.parent.mkdir(mode=0o777, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise MetalError(f"machine {self._name}: no lease: {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = printable(os.read(fd, 200), 200).strip() or "somebody"
            os.close(fd)
            raise MetalError(f"machine {self._name} is in use by {holder}") from None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        told = f"{_user()}@{socket.gethostname()}, process {os.getpid()}, since {since}\n"
        os.ftruncate(fd, 0)
        os.pwrite(fd, told.encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Gives it back; may be called again."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
