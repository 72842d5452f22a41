"""A console over RFC 2217: serialx speaks it, and sets the baud rate at the other end."""

from __future__ import annotations

import contextlib
from typing import Any

from harness.machine.base import ConsoleClosed, ConsoleTimeout

CHUNK_BYTES = 4096


class Rfc2217Console:
    """`port` is a port of serialx."""

    def __init__(self, port: Any) -> None:
        self._port = port
        if not port.is_open:
            port.open()
        self._buffer = bytearray(CHUNK_BYTES)
        self.closed = False

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        self._check()
        try:
            size = self._port.readinto(self._buffer, timeout=max(timeout_s, 0.0))
        except TimeoutError:
            return b""
        except Exception as error:  # whatever the library raises, the line is lost
            self.closed = True
            raise ConsoleClosed(str(error) or type(error).__name__) from error
        return bytes(self._buffer[: size or 0])

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        self._check()
        try:
            while data:
                data = data[self._port.write(data, timeout=deadline_s) or len(data) :]
        except TimeoutError:
            raise ConsoleTimeout(f"{len(data)} bytes are not taken within {deadline_s:.3g} s") from None
        except Exception as error:
            self.closed = True
            raise ConsoleClosed(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """See Console."""
        self.closed = True
        with contextlib.suppress(Exception):
            self._port.close()

    def _check(self) -> None:
        if self.closed:
            raise ConsoleClosed("closed")
