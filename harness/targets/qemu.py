"""QEMU with its own CPU emulation (TCG) as L0.

Nothing on disk and no port: the console is a socket pair and the guest's memory a memfd, both handed down to QEMU.
The memory lane is the same memory mapped here.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import shutil
import socket
import subprocess

from harness.machine import feature_mask
from harness.machine.base import Capabilities, Console, Missing, TargetError, TargetOptions
from harness.machine.console import SocketConsole, ThrottledConsole
from harness.machine.process import Child, reap_leftovers, signal_name

PROGRAM = "qemu-system-x86_64"
CPU_MODEL = "max,+svm"
ENDED_WAIT_S = 1.0
TRY_DEADLINE_S = 20


class QemuTcg:
    """One QEMU process a boot."""

    name = "qemu-tcg"
    baselines: tuple[str, ...] = (name,)

    def __init__(self, options: TargetOptions) -> None:
        self._options = options
        self._program = shutil.which(options.qemu_path or PROGRAM)
        self._child: Child | None = None
        self._console: SocketConsole | None = None
        self._memory: mmap.mmap | None = None
        self._log = ""

    def start(self) -> Console:
        """Boots afresh."""
        self.stop()
        reap_leftovers()
        if self._program is None:
            raise TargetError(f"{self._options.qemu_path or PROGRAM} is not there (Debian: qemu-system-x86)")
        if not self._options.executor_elf.is_file():
            raise TargetError(f"{self._options.executor_elf} is not built")
        size = self._options.memory_mib << 20
        memory = os.memfd_create("nsvm-guest")
        ours, theirs = socket.socketpair()
        try:
            os.ftruncate(memory, size)
            self._memory = mmap.mmap(memory, size)
            self._options.workdir.mkdir(parents=True, exist_ok=True)
            argv = self._argv(str(theirs.fileno()), str(memory))
            self._child = Child(argv, cwd=self._options.workdir, pass_fds=(theirs.fileno(), memory))
        except (OSError, TargetError) as error:
            ours.close()
            self._drop_memory()
            raise TargetError(str(error)) from error
        finally:
            theirs.close()
            os.close(memory)
        self._console = SocketConsole(ours)
        baud = self._options.throttle_baud
        return ThrottledConsole(self._console, baud) if baud else self._console

    def stop(self) -> None:
        """Ends the process and gives the memory back."""
        if self._child is not None:
            self._child.stop()
            self._log = self._child.log()
            self._child = None
        if self._console is not None:
            self._console.close()
            self._console = None
        self._drop_memory()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.alive()

    def exit_reason(self) -> str | None:
        """Why QEMU ended by itself; None while it runs, or if it was stopped."""
        if self._child is None:
            return None
        closed = self._console is not None and self._console.closed
        status = self._child.wait(ENDED_WAIT_S if closed else 0)
        if status is None:
            return None
        log = self._child.log()
        if status == 0:
            # With -no-reboot a reset ends QEMU; -d cpu_reset has it say that it was a triple fault.
            return "machine reset (triple fault)" if "Triple fault" in log else "machine reset or switched off"
        if why := _without_firmware(self._program, log):
            return why
        lines = [line for line in log.splitlines() if line.strip() and not _is_cpu_dump(line)]
        said = f": {lines[-1].strip()[:200]}" if lines else ""
        return f"QEMU died of {signal_name(-status)}{said}" if status < 0 else f"QEMU ended with {status}{said}"

    def log_tail(self) -> str:
        """The end of QEMU's output."""
        return self._child.log() if self._child is not None else self._log

    def lane_memory(self) -> mmap.mmap | None:
        """Guest-physical memory from address 0."""
        return self._memory

    def capabilities(self) -> Capabilities:
        """What QEMU TCG can do."""
        baud = self._options.throttle_baud
        return Capabilities(
            shared_memory=baud is None,
            cpus_max=2,
            disposable=True,
            boot_deadline_s=20.0,
            round_trip_s=0.001 + (1000 / baud if baud else 0),
        )

    def version(self) -> str:
        """As in "QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"."""
        return _version(self._program) if self._program else "QEMU (not installed)"

    @property
    def version_tuple(self) -> tuple[int, ...]:
        """As in (7, 2, 22)."""
        found = re.search(r"\d+(\.\d+)+", self.version())
        return tuple(map(int, found[0].split("."))) if found else ()

    def command_line(self) -> list[str]:
        """How QEMU is started."""
        return self._argv("FD", "FD")

    def try_options(self) -> None:
        """Has QEMU make the CPU that the user named, and end: a misspelt model would else be a run without a boot."""
        options = self._options
        told = options.cpu_model or options.without or options.qemu_path or options.fault
        if self._program is None or not told:
            return
        argv = [self._program, "-accel", "tcg", "-M", "pc", "-m", "16M", "-cpu", self._cpu(), "-nodefaults"]
        argv += ["-no-user-config", "-display", "none", "-vga", "none", "-S", "-monitor", "stdio"]
        try:
            ran = subprocess.run(
                argv, input="quit\n", capture_output=True, text=True, timeout=TRY_DEADLINE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"{self._program} cannot be started: {error}") from None
        if why := _without_firmware(self._program, ran.stderr):
            raise TargetError(why)
        if ran.returncode:
            lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()] or [f"status {ran.returncode}"]
            raise TargetError(f"QEMU does not start with -cpu {self._cpu()}: {lines[-1][:200]}")

    def missing(self) -> list[Missing]:
        """What QEMU TCG needs and is not there."""
        if self._program is not None:
            return []
        return [Missing(PROGRAM, "qemu-system-x86", "runs the suite on QEMU's emulated AMD CPU, without any hardware")]

    def _argv(self, console_fd: str, memory_fd: str) -> list[str]:
        options = self._options
        memory = f"{options.memory_mib}M"
        argv = [self._program or PROGRAM, "-accel", "tcg", "-M", "pc,memory-backend=ram", "-m", memory]
        argv += ["-object", f"memory-backend-file,id=ram,size={memory},mem-path=/proc/self/fd/{memory_fd},share=on"]
        argv += ["-smp", str(options.cpus), "-cpu", self._cpu()]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot", "-d", "cpu_reset"]
        argv += ["-chardev", f"socket,id=console,fd={console_fd}", "-serial", "chardev:console"]
        argv += ["-kernel", str(options.executor_elf.absolute())]
        if options.bundle is not None:
            argv += ["-initrd", str(options.bundle.absolute())]
        return [*argv, *options.extra_args]

    def _cpu(self) -> str:
        try:
            return feature_mask.qemu_cpu(self._options.cpu_model or CPU_MODEL, self._options.without)
        except feature_mask.MaskError as error:
            raise TargetError(str(error)) from None

    def _drop_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _without_firmware(program: str | None, log: str) -> str:
    """What to do about a QEMU that was copied without the folder of its firmware; "" if `log` says nothing of it."""
    found = re.search(r"could not load PC BIOS '([^']*)'", log)
    if found is None:
        return ""
    return (
        f"{program} has no firmware ({found[1]}): QEMU looks for it in ../share/qemu from its own folder; "
        "copy that folder with it (bin/ and share/ next to each other), or name the program where it was built"
    )


def _is_cpu_dump(line: str) -> bool:
    return re.match(r"(CPU Reset|[A-Z0-9]{2,5} ?=|XMM|FPR|CC[SDO]|EFER|Triple)", line.strip()) is not None


@functools.cache
def _version(program: str) -> str:
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"QEMU (unknown version: {error})"
    found = re.search(r"version (.+)", ran.stdout)
    return f"QEMU {found[1].strip()}" if found else "QEMU (unknown version)"
