"""Emulator processes that never outlive the run.

Three nets, each for what the one before lets through: stop() ends the process group within a bounded time; the kernel
kills the emulator when the thread that started it dies, be it by SIGKILL (PR_SET_PDEATHSIG, set by setpriv(1)); and a
record on disk lets the next run end what is left and remove its files, if it can prove that they are nsvm's.
So start a target from a thread that lives as long as the target.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from harness.machine.base import TargetError
from harness.text import printable

LOG_KEPT = 64 * 1024  # bytes of an emulator's output that are kept
LAST_WORDS_S = 1.0  # what was written before the end may come behind it
TERM_S = 2.0
KILL_S = 5.0
RECORDS_MAX = 1000


class Child:
    """One running emulator. `files` are removed when it is stopped, or by the next run."""

    def __init__(
        self, argv: Sequence[str], *, cwd: Path, files: Sequence[Path] = (), pass_fds: Sequence[int] = ()
    ) -> None:
        self._record = ChildRecord.new(argv, files)
        self._log = bytearray()
        try:
            self._process = subprocess.Popen(
                [*_leash(), *argv],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
                env={**os.environ, "TERM": "linux", "LC_ALL": "C"},
            )
        except OSError as error:
            self._record.remove()
            raise TargetError(f"{argv[0]} does not start: {error}") from error
        self._record.write(self._process.pid)
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read_log, daemon=True, name=f"log of {self.pid}")
        self._reader.start()

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(fd, 65536):
                self._log += data
                del self._log[:-LOG_KEPT]

    def log(self) -> str:
        """The end of what it printed, printable."""
        if not self.alive():
            self._reader.join(LAST_WORDS_S)
        return printable(bytes(self._log), LOG_KEPT)

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status (negative: the signal it died of), or None if it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, term_s: float = TERM_S) -> None:
        """Ends it: SIGTERM, after `term_s` SIGKILL. May be called again."""
        for number, wait_s in ((signal.SIGTERM, term_s), (signal.SIGKILL, KILL_S)):
            if wait_s and self.alive():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)
                self.wait(wait_s)
        self._reader.join(0.2)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
        self._record.remove()


def _leash() -> list[str]:
    """What a command is started through, so that it dies with the thread that started it.

    Who is killed before setpriv(1) has asked for the signal sends none: then the child has another parent already, and
    goes by itself.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    return [setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]


class ChildRecord:
    """What is written down about one child, so that another run can recognise it."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def new(cls, argv: Sequence[str], files: Sequence[Path]) -> Self:
        """Written before the child exists, as its files may already."""
        handle, name = tempfile.mkstemp(prefix="child-", suffix=".json", dir=state_directory())
        os.close(handle)
        me = os.getpid()
        content = {
            "world": _world(),
            "owner": [me, start_time(me)],
            "argv": list(argv),
            "files": [str(path) for path in files],
        }
        record = cls(Path(name), content)
        record.write(None)
        return record

    def write(self, pid: int | None) -> None:
        """Writes it whole or not at all."""
        self.content["child"] = None if pid is None else [pid, start_time(pid)]
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(self.content))
        draft.replace(self.path)

    def remove(self) -> None:
        """Removes it, and the child's files before it."""
        for name in self.content["files"]:
            with contextlib.suppress(OSError):
                Path(name).unlink()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def is_left_over(self) -> bool:
        """Whether the run that wrote it is gone: same machine, same boot, same PID namespace, owner not there."""
        if self.content.get("world") != _world():
            return False
        pid, since = self.content["owner"]
        return bool(start_time(pid) != since)

    def child_to_kill(self) -> int | None:
        """The child's PID, if what runs under it is provably the child."""
        if self.content.get("child") is None:
            return None
        pid, since = self.content["child"]
        if since is None or start_time(pid) != since or _command(pid) != self.content["argv"]:
            return None
        return int(pid)


def reap_leftovers() -> list[str]:
    """Ends emulators and removes files that a killed run left behind. Says what it did, a line each."""
    done = []
    for path in sorted(state_directory().glob("child-*.json"))[:RECORDS_MAX]:
        try:
            record = ChildRecord(path, json.loads(path.read_text()))
            if not record.is_left_over():
                continue
            pid = record.child_to_kill()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                done.append(f"ended {record.content['argv'][0]}, process {pid}, which a killed run had left")
            record.remove()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # being written, or another run reaps it at the same time
    return done


def state_directory() -> Path:
    """Where records lie: the user's own. Raises TargetError if somebody else made it, or it cannot be made."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not (os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK)):  # as after `su`, which leaves it another's
        base = tempfile.gettempdir()
    directory = Path(base, f"nsvm-{os.getuid()}")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise TargetError(f"{directory} cannot be made: {error.strerror}") from None
    if found.st_uid != os.getuid() or found.st_mode & 0o022 or directory.is_symlink():
        raise TargetError(f"{directory} is not ours alone")
    return directory


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _world() -> list[str]:
    """In which boot and PID namespace a PID means something."""
    return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]


def signal_name(number: int) -> str:
    """SIGSEGV and the like."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
