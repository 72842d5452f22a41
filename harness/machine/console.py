"""Consoles: a socket, a pseudo-terminal, and one that makes another as slow as a serial line."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable

from harness.machine.base import Console, ConsoleClosed, ConsoleTimeout

CHUNK_BYTES = 65536


class SocketConsole:
    """A console on a connected stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._timeout_s: float | None = -1.0  # none yet
        self.closed = False

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        self._set_timeout(timeout_s)
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except (TimeoutError, BlockingIOError):
            return b""
        except OSError as error:
            self.closed = True
            raise ConsoleClosed(str(error)) from error
        if not data:
            self.closed = True
            raise ConsoleClosed("end of file")
        return data

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        self._set_timeout(deadline_s)
        try:
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError) as error:
            raise ConsoleTimeout(f"{len(data)} bytes are not taken within {deadline_s:.3g} s") from error
        except OSError as error:
            self.closed = True
            raise ConsoleClosed(str(error)) from error

    def close(self) -> None:
        """See Console."""
        self.closed = True
        self._socket.close()

    def _set_timeout(self, timeout_s: float) -> None:
        timeout_s = max(timeout_s, 0.0)  # a deadline just passed is no error of the caller's
        if timeout_s != self._timeout_s:
            self._socket.settimeout(timeout_s)
            self._timeout_s = timeout_s


class PtyConsole:
    """A console on the master side of a raw pseudo-terminal. `ended()` says whether who has the other side is gone."""

    def __init__(self, master: int, process_fd: int) -> None:
        os.set_blocking(master, False)
        self._fd = master
        self._process_fd = process_fd  # a pidfd: readable when the process has ended
        self._poll = select.poll()
        self._poll.register(master, select.POLLIN)
        self._poll.register(process_fd, select.POLLIN)
        self.closed = False

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        if self.closed:
            raise ConsoleClosed("closed")
        ready = self._poll.poll(timeout_s * 1000)
        if not ready:
            return b""
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            data = b""
        except OSError as error:
            self.closed = True
            raise ConsoleClosed(str(error)) from error
        if not data and any(fd == self._process_fd for fd, _ in ready):
            self.closed = True
            raise ConsoleClosed("the emulator ended")
        return data

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        if self.closed:
            raise ConsoleClosed("closed")
        deadline = time.monotonic() + deadline_s
        while True:
            with contextlib.suppress(BlockingIOError):
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    raise
                except OSError as error:
                    self.closed = True
                    raise ConsoleClosed(str(error)) from error
            if not data:
                return
            ready, _, _ = select.select([self._process_fd], [self._fd], [], max(deadline - time.monotonic(), 0))
            if ready:
                self.closed = True
                raise ConsoleClosed("the emulator ended")
            if time.monotonic() >= deadline:
                raise ConsoleTimeout(f"{len(data)} bytes are not taken within {deadline_s:.3g} s")

    def close(self) -> None:
        """See Console."""
        if not self.closed or self._fd >= 0:
            self.closed = True
            for fd in (self._fd, self._process_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._process_fd = -1


class ThrottledConsole:
    """Another console at `baud`, 10 bits a byte, in both directions."""

    def __init__(
        self,
        inner: Console,
        baud: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner = inner
        self._byte_s = 10 / baud
        self._clock = clock
        self._sleep = sleep
        self._held = bytearray()  # came, but is still on the line
        self._line_since = 0.0  # when the line began to carry the first byte held

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        end = self._clock() + timeout_s
        while True:
            now = self._clock()
            if self._held:
                arrived = int((now - self._line_since) / self._byte_s)
                if arrived:
                    data = bytes(self._held[:arrived])
                    del self._held[:arrived]
                    self._line_since += len(data) * self._byte_s
                    return data
                if now >= end:
                    return b""
                self._sleep(min(self._line_since + self._byte_s - now, end - now) + 1e-4)
                continue
            self._held += self._inner.read(max(end - now, 0))
            if not self._held:
                return b""
            self._line_since = max(self._line_since, self._clock())

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        end = self._clock() + deadline_s
        for at in range(0, len(data), 16):
            part = data[at : at + 16]
            if self._clock() >= end:
                raise ConsoleTimeout(f"{len(data) - at} bytes are not sent within {deadline_s:.3g} s")
            self._inner.write(part, max(end - self._clock(), 0))
            self._sleep(len(part) * self._byte_s)

    def close(self) -> None:
        """See Console."""
        self._inner.close()
