"""Work folders below /tmp that do not pile up: one whose process was killed is removed by the next run.

A folder holds a file that its process keeps locked for as long as it lives; the kernel lets go of the lock with the
process, however that ends. So a folder that is the user's own, has such a file, and whose lock can be had, is nobody's
any more. Everything else is left alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "nsvm-"
OWNER = ".owner"
CONTENT = b"A work folder of nsvm; its owner holds a lock on this file.\n"
FOLDERS_MAX = 1000


class WorkFolder:
    """A temporary folder, nsvm-NAME-RANDOM. Removes what killed runs left before it makes one."""

    def __init__(self, name: str) -> None:
        remove_leftovers()
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-"))
        fresh = self.path / f"{OWNER}.new"
        self._lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with suppress(OSError):  # a file system without locks: then nobody ever takes it for left over
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self._lock, CONTENT)
            fresh.rename(self.path / OWNER)

    def cleanup(self) -> None:
        """Removes it; may be called again."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.cleanup()


def remove_leftovers() -> list[Path]:
    """Removes work folders whose processes are gone, and says which."""
    base = Path(tempfile.gettempdir())
    return [folder for folder in sorted(base.glob(f"{PREFIX}*-*"))[:FOLDERS_MAX] if _remove(folder)]


def _remove(folder: Path) -> bool:
    """Removes a folder if it is provably ours and left over."""
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            return False
        lock = os.open(folder / OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if os.fstat(lock).st_uid != os.getuid() or os.read(lock, len(CONTENT) + 1) != CONTENT:
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except OSError:
        return False  # its owner lives, or another run removes it at this moment
    finally:
        os.close(lock)
    return True
