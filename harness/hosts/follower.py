"""A thread that follows the kernel's log of a host into a ring, as long as the connection lives."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final, Protocol

from harness.hosts.kernel_log import FOLLOW, Entry, Header, Parser
from harness.hosts.problems import Grade, grade_of
from harness.hosts.ring import Ring

END_S: Final = 2.0
REOPENS_MAX: Final = 5
REOPEN_S: Final = 0.2


class Stream(Protocol):
    """The channel of a command (paramiko.Channel is one)."""

    def settimeout(self, timeout: float | None, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class Opens(Protocol):
    """What starts a command on the host."""

    def open(self, command: str, /) -> Stream: ...


class Follower:
    """Follows until stop(). `why_not` says why it does not, "" if it does."""

    def __init__(self, ring: Ring) -> None:
        self.why_not = "not started"
        self.boot_id = ""
        self.reboots = 0
        self.greeted = threading.Event()
        """Set once it is known which boot this is."""
        self.taint: int | None = None
        """What it was when the following began."""
        self._ring = ring
        self._last: int | None = None  # the number of the last record seen in this boot of the host
        self._newest_us = 0
        self._old_until: int | None = None
        self._stream: Stream | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, host: Opens) -> None:
        """Starts again over a connection, without waiting. What came before the first start is left out."""
        self.stop()
        stopping = self._stopping = threading.Event()  # each thread has its own: one that ends late stays stopped
        self.why_not = ""
        self.greeted.clear()
        self._stream = host.open(FOLLOW)
        self._thread = threading.Thread(target=self._follow, args=(host, stopping), daemon=True, name="kernel log")
        self._thread.start()

    def stop(self) -> None:
        """Ends it. May be called again."""
        self._stopping.set()
        if self._stream is not None:
            with contextlib.suppress(Exception):  # whatever a dead connection says to that
                self._stream.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(END_S)
        self._stream = self._thread = None

    def quiet(self, within_s: float, still_s: float = 0.02) -> None:
        """Waits until nothing has come for `still_s`, at most `within_s`."""
        deadline = time.monotonic() + within_s
        before = -1
        while (now := self._ring.position) != before and time.monotonic() < deadline:
            before = now
            time.sleep(still_s)

    def _follow(self, host: Opens, stopping: threading.Event) -> None:
        for _ in range(REOPENS_MAX):
            self._read(stopping)
            # `cat` ends where the log overtakes it; what was lost is counted by the numbers.
            if self.why_not or stopping.wait(REOPEN_S):
                return
            try:
                stream = self._stream = host.open(FOLLOW)
                if stopping.is_set():  # meanwhile: then the one before was closed, and this one is nobody's
                    stream.close()
            except Exception as error:
                self._ended(error, stopping)
                return
        self.why_not = "the kernel's log is no longer followed: it came too fast"

    def _ended(self, error: Exception, stopping: threading.Event) -> None:
        """The connection is gone; who uses it for more than evidence gets an error."""
        if not stopping.is_set():
            self.why_not = f"the connection ended: {str(error)[:200] or type(error).__name__}"

    def _read(self, stopping: threading.Event) -> None:
        """Reads one stream to its end."""
        parser, stream = Parser(), self._stream
        try:
            if stream is not None:
                stream.settimeout(None)  # it ends with the connection, which has its own sign of life
            while stream is not None and (data := stream.recv(65536)):
                for item in parser.feed(data):
                    if isinstance(item, Header):
                        self._head(item)
                    else:
                        self._take(item)
        except Exception as error:
            self._ended(error, stopping)

    def _head(self, header: Header) -> None:
        match header.what:
            case "boot" if header.text != self.boot_id:
                if self.boot_id:
                    self.reboots += 1
                    self._ring.append("--- the host has rebooted ---", Grade.NOTEWORTHY)
                self.boot_id, self.taint = header.text, None
                self._last, self._old_until, self._newest_us = None, None, 0
            case "taint" if self.taint is None and header.text.isdecimal():
                self.taint = int(header.text)
            case "up" | "last":
                self.greeted.set()
                at = header.time_us()
                if header.what == "last" and at is not None and at < self._newest_us:
                    self._last = None  # an emulated host that was restored: it has the same boot id and lives again
                if self._last is None:
                    self._old_until = self._old_until if at is None else at
            case "none":
                self.why_not = f"this user may not read it ({header.text})"

    def _take(self, entry: Entry) -> None:
        if entry.number is not None:
            if self._last is not None and entry.number <= self._last:
                return
            if self._last is not None and entry.number > self._last + 1:
                self._ring.append(f"[... {entry.number - self._last - 1} records of the kernel's log were lost ...]")
            self._last, self._newest_us = entry.number, entry.time_us
        if self._old_until is not None and entry.time_us <= self._old_until:
            return  # it was there before we came
        for line in entry.lines():
            self._ring.append(line, grade_of(line) if entry.kernel else None)
