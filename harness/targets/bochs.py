"""Bochs as L0: its `ryzen` model, booted from a disk image.

The console. Bochs sends each byte of COM1 by itself. On a socket (`mode=socket-server`) Nagle's algorithm holds the
second byte back until the first is acknowledged, which the other side delays: 44 ms for any answer of more than one
byte, whatever TCP_NODELAY says here; TCP_QUICKACK after every read brings that down. A pseudo-terminal (`mode=term`) is
as quick without the trick, needs no port, and is there before Bochs starts.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import re
import shutil
import subprocess
import tty
from pathlib import Path

from harness.machine.base import Capabilities, Console, Missing, TargetError, TargetOptions
from harness.machine.console import PtyConsole, ThrottledConsole
from harness.machine.process import Child, reap_leftovers, signal_name
from harness.targets.bochs_config import BIOS, VGA_BIOS, configuration

PROGRAM = "bochs"
TERM_PLUGINS = "bochs/plugins/libbx_term*.so*"
RC = "bochsrc.txt"
ENDED_WAIT_S = 1.0


class Bochs:
    """One Bochs process a boot."""

    name = "bochs"
    baselines: tuple[str, ...] = (name,)

    def __init__(self, options: TargetOptions) -> None:
        self._options = options
        self._program = shutil.which(options.bochs_path or PROGRAM)
        self._child: Child | None = None
        self._console: PtyConsole | None = None
        self._terminal: int | None = None
        self._log = ""

    def start(self) -> Console:
        """Boots afresh."""
        self.stop()
        reap_leftovers()
        if missing := self.missing():
            raise TargetError("; ".join(f"{item.what} is not there (Debian: {item.package})" for item in missing))
        if not self._options.disk_image.is_file():
            raise TargetError(f"{self._options.disk_image} is not built")
        if self._options.cpus != 1:
            raise TargetError("Bochs runs the suite on one CPU only")
        workdir = self._options.workdir.absolute()
        master, self._terminal = os.openpty()
        try:
            tty.setraw(self._terminal)
            files = self._write_files(workdir, os.ttyname(self._terminal))
            self._child = Child(self.command_line(), cwd=workdir, files=files)
            self._console = PtyConsole(master, os.pidfd_open(self._child.pid))
        except (OSError, TargetError) as error:
            os.close(master)
            self.stop()
            raise TargetError(str(error), self.log_tail()) from error
        baud = self._options.throttle_baud
        return ThrottledConsole(self._console, baud) if baud else self._console

    def stop(self) -> None:
        """Ends the process and removes its files."""
        if self._child is not None:
            self._child.stop(term_s=0)  # nothing to save, and it is slow to leave by itself
            self._log = self._child.log()
            self._child = None
        if self._console is not None:
            self._console.close()
            self._console = None
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.alive()

    def exit_reason(self) -> str | None:
        """Why Bochs ended by itself, or what it gave up over while it runs on; else None."""
        if self._child is None:
            return None
        closed = self._console is not None and self._console.closed
        status = self._child.wait(ENDED_WAIT_S if closed else 0)
        log = self._child.log()
        if re.search(r"3rd \(\d+\) exception with no resolution", log):
            return "machine shut down (triple fault)"
        if panics := re.findall(r">>PANIC<<\s*(.+)", log):
            return f"Bochs panic: {panics[-1].strip()[:200]}"
        if status is None:
            return None
        return f"Bochs died of {signal_name(-status)}" if status < 0 else f"Bochs ended with {status}"

    def log_tail(self) -> str:
        """The end of Bochs's log."""
        return self._child.log() if self._child is not None else self._log

    def lane_memory(self) -> mmap.mmap | None:
        """Bochs keeps guest memory to itself."""
        return None

    def capabilities(self) -> Capabilities:
        """What Bochs can do."""
        baud = self._options.throttle_baud
        return Capabilities(
            shared_memory=False,
            cpus_max=1,
            disposable=True,
            boot_deadline_s=60.0,
            round_trip_s=0.002 + (1000 / baud if baud else 0),
        )

    def version(self) -> str:
        """As in "Bochs 2.7 (Debian 2.7+dfsg-4)"."""
        return _ask(self._program)[0] if self._program else "Bochs (not installed)"

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """As in (2, 7)."""
        found = re.search(r"\d+(\.\d+)+", self.version())
        return tuple(map(int, found[0].split("."))) if found else ()

    def command_line(self) -> list[str]:
        """How Bochs is started."""
        argv = [self._program or PROGRAM, "-q", "-f", RC]
        if self._program and _ask(self._program)[1]:
            argv += ["-rc", "debugger.txt"]
        return [*argv, *self._options.extra_args]

    def missing(self) -> list[Missing]:
        """What Bochs needs and is not there."""
        if self._options.without or self._options.cpu_model:
            raise TargetError("Bochs has one CPU model here (ryzen), and no way to take bits away from it")
        why = "runs the suite on Bochs's emulated AMD CPU: a second opinion besides QEMU's"
        wanted = [
            (self._program is not None, PROGRAM, "bochs", why),
            (any(Path("/usr/lib").glob(f"*/{TERM_PLUGINS}")), "Bochs's term display", "bochs-term", why),
            (BIOS.exists(), str(BIOS), "bochsbios", why),
            (VGA_BIOS.exists(), str(VGA_BIOS), "vgabios", why),
        ]
        own = self._options.bochs_path is not None  # a build of one's own may keep its display anywhere
        return [Missing(*rest) for there, *rest in wanted if not there and not (own and "term" in rest[0])]

    def _write_files(self, workdir: Path, terminal: str) -> list[Path]:
        workdir.mkdir(parents=True, exist_ok=True)
        disk, lock, debugger = (workdir / name for name in ("disk.img", "disk.img.lock", "debugger.txt"))
        for path in (disk, lock):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        disk.symlink_to(self._options.disk_image.absolute())  # Bochs puts its lock next to the name it was given
        debugger.write_text("c\n")
        (workdir / RC).write_text(configuration(self._options, disk, terminal))
        return [disk, lock, debugger, workdir / RC]


@functools.cache
def _ask(program: str) -> tuple[str, bool]:
    """Version, and whether it is a build with the debugger, which takes -rc and waits for `continue`."""
    try:
        ran = subprocess.run(
            [program, "--help"], capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Bochs (unknown version: {error})", False
    said = ran.stdout + ran.stderr
    found = re.search(r"Bochs x86 Emulator (\d\S*)", said)
    version = f"Bochs {found[1]}" if found else "Bochs (unknown version)"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if program == "/usr/bin/bochs":
            query = ["dpkg-query", "-W", "-f", "${Version}", "bochs"]
            package = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
            version += f" (Debian {package})" if package else ""
    return version, re.search(r"^\s*-rc\b", said, re.MULTILINE) is not None
