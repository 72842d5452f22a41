"""A console on an SSH channel: stdout and stdin are the line, stderr is what the VMM has to say."""

from __future__ import annotations

import contextlib
import threading
import time

import paramiko

from harness.machine.base import ConsoleClosed, ConsoleTimeout
from harness.text import printable

LOG_KEPT = 64 * 1024
CHUNK = 65536
LOG_EVERY_S = 0.05
LAST_WORDS_S = 1.0  # what was written before the end may come behind it


class ChannelConsole:
    """stderr is read by a thread of its own: nobody may have to wait because nobody reads a log."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._log = bytearray()
        self.closed = False
        self._reader = threading.Thread(target=self._read_log, daemon=True, name="log of a guest")
        self._reader.start()

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        try:
            self._channel.settimeout(max(timeout_s, 0.0))
            data = self._channel.recv(CHUNK)
        except TimeoutError:
            return b""
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.closed = True
            raise ConsoleClosed(str(error)) from error
        if not data:
            self.closed = True
            raise ConsoleClosed("end of file")
        return data

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        deadline = time.monotonic() + deadline_s
        while data:
            try:
                self._channel.settimeout(max(deadline - time.monotonic(), 0.0))
                sent = self._channel.send(data[:CHUNK])
            except TimeoutError as error:
                raise ConsoleTimeout(f"{len(data)} bytes are not taken within {deadline_s:.3g} s") from error
            except (OSError, EOFError, paramiko.SSHException) as error:
                self.closed = True
                raise ConsoleClosed(str(error)) from error
            if not sent:
                self.closed = True
                raise ConsoleClosed("closed")
            data = data[sent:]

    def hang_up(self) -> None:
        """Closes the guest's stdin: it is to end."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def close(self) -> None:
        """See Console."""
        self.closed = True
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
        self._reader.join(1)

    def wait(self, timeout_s: float) -> int | None:
        """The exit status of what ran there, -1 if it died of a signal; None if it still runs or nobody can tell."""
        deadline = time.monotonic() + timeout_s
        # What nobody reads must not keep the other side from ending.
        while not self._channel.status_event.wait(min(max(deadline - time.monotonic(), 0.0), 0.05)):
            with contextlib.suppress(ConsoleClosed):
                self.read(0)
            if time.monotonic() >= deadline:
                return None
        return self._channel.exit_status

    def ended(self) -> bool:
        """Whether what ran there has ended, or the line to it."""
        return self._channel.closed or self._channel.exit_status_ready()

    def log(self) -> str:
        """The end of its stderr, printable."""
        if self.ended():
            self._reader.join(LAST_WORDS_S)
        return printable(bytes(self._log), LOG_KEPT)

    def _read_log(self) -> None:
        with contextlib.suppress(Exception):
            while True:
                try:
                    data = self._channel.recv_stderr(CHUNK)
                except TimeoutError:  # what read() and write() set for themselves holds for this stream too
                    time.sleep(LOG_EVERY_S)
                    continue
                if not data:
                    return
                self._log += data
                del self._log[:-LOG_KEPT]
