"""Consoles of machines: a local serial line, a server's port, RFC 2217, a command's stdin and stdout.

| `console = ` | what |
| --- | --- |
| `"/dev/ttyUSB0"` | a serial line of this machine |
| `"socket://lab:2001"` | raw TCP: ser2net, a terminal server |
| `"rfc2217://lab:2002"` | telnet with RFC 2217, which sets the baud rate over there, too |
| `"command:ssh bmc console"` | what the command reads and writes: IPMI SOL (ipmitool), conserver's console(1), ssh |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import termios
import time
from urllib.parse import urlsplit

from harness.machine.base import Console, ConsoleClosed, ConsoleTimeout
from harness.machine.console import SocketConsole
from harness.metal.error import MetalError
from harness.metal.rfc2217 import Rfc2217Console
from harness.metal.run import split
from harness.text import printable

CONNECT_S = 15.0
CHUNK_BYTES = 65536
BAUDS = (9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600, 1000000, 1500000, 2000000, 3000000)
END_S = 2.0


def open_console(what: str, where: str, baud: int) -> Console:
    """Opens it. Raises MetalError."""
    if where.startswith("command:"):
        return CommandConsole(what, where.removeprefix("command:"))
    if where.startswith("socket://"):
        return _dial(what, where)
    if where.startswith("rfc2217://"):
        return Rfc2217Console(_dial(what, where), baud)
    if where.startswith("/"):
        return TtyConsole(what, where, baud)
    raise MetalError(f"{what}: {where!r} is no console; write /dev/..., socket://, rfc2217:// or command:")


def _dial(what: str, where: str) -> Console:
    parts = urlsplit(where)
    try:
        if not parts.hostname or not parts.port:
            raise MetalError(f"{what}: {where}: write {parts.scheme}://HOST:PORT")
        line = socket.create_connection((parts.hostname, parts.port), CONNECT_S)
    except (OSError, ValueError) as error:
        raise MetalError(f"{what}: {where}: {getattr(error, 'strerror', None) or error}") from None
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return SocketConsole(line)


class TtyConsole:
    """A serial line of this machine, raw, 8N1, taken for ourselves alone."""

    def __init__(self, what: str, path: str, baud: int) -> None:
        if baud not in BAUDS:
            raise MetalError(f"{what}: {baud} baud is none of {', '.join(map(str, BAUDS))}")
        speed = getattr(termios, f"B{baud}")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise MetalError(f"{what}: {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            control = termios.CS8 | termios.CREAD | termios.CLOCAL
            cc = termios.tcgetattr(self._fd)[6]
            cc[termios.VMIN], cc[termios.VTIME] = 0, 0
            termios.tcsetattr(self._fd, termios.TCSANOW, [0, 0, control, 0, speed, speed, cc])
            fcntl.ioctl(self._fd, termios.TIOCEXCL)
        except BlockingIOError:
            os.close(self._fd)
            raise MetalError(f"{what}: {path} is in use by somebody else") from None
        except (OSError, termios.error) as error:
            os.close(self._fd)
            raise MetalError(f"{what}: {path} is no serial line: {error}") from None
        self.closed = False

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        self._check()
        if not select.select([self._fd], [], [], max(timeout_s, 0))[0]:
            return b""
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            self.closed = True
            raise ConsoleClosed(str(error)) from error
        if not data:
            self.closed = True
            raise ConsoleClosed("the line hung up")
        return data

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        self._check()
        deadline = time.monotonic() + deadline_s
        while data:
            if not select.select([], [self._fd], [], max(deadline - time.monotonic(), 0))[1]:
                raise ConsoleTimeout(f"{len(data)} bytes are not taken within {deadline_s:.3g} s")
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self.closed = True
                raise ConsoleClosed(str(error)) from error

    def close(self) -> None:
        """See Console."""
        if self._fd >= 0:
            self.closed = True
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fd, termios.TIOCNXCL)
            os.close(self._fd)
            self._fd = -1

    def _check(self) -> None:
        if self.closed:
            raise ConsoleClosed("closed")


class CommandConsole(SocketConsole):
    """What a command reads from its stdin and writes to its stdout. Its last words say why it ended."""

    def __init__(self, what: str, command: str) -> None:
        argv = split(f"{what}: console", command)
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            ours.close()
            raise MetalError(f"{what}: console: {argv[0]}: {error.strerror}") from None
        finally:
            theirs.close()
        self._what = f"{what}: console: {argv[0]}"
        super().__init__(ours)

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        try:
            return super().read(timeout_s)
        except ConsoleClosed:
            raise ConsoleClosed(f"{self._what} ended: {self._last_words()}") from None

    def close(self) -> None:
        """See Console. The command is ended, with all that it started."""
        super().close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        said = b""
        if self._process.stderr is not None and select.select([self._process.stderr], [], [], 0)[0]:
            said = os.read(self._process.stderr.fileno(), 4096)
        lines = [line.strip() for line in printable(said, 4096).splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"status {self._process.returncode}, and says nothing"
