"""A console over RFC 2217: telnet, 8 bits clean, which sets the rate of the line at the other end.

pyserial and serialx speak it, too, but both wait for the server to set modem lines, and ser2net does not answer that
where there are none. A console needs none.
"""

from __future__ import annotations

import struct
import time

from harness.machine.base import Console

IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240
BINARY, GO_AHEAD, COM_PORT = 0, 3, 44
OURS = (BINARY, GO_AHEAD, COM_PORT)
THEIRS = (BINARY, GO_AHEAD)
SET_BAUDRATE, SET_DATASIZE, SET_PARITY, SET_STOPSIZE, SET_CONTROL = 1, 2, 3, 4, 5
NO_PARITY, ONE_STOP_BIT, NO_FLOW_CONTROL = 1, 1, 1
SUBNEGOTIATION_MAX = 256
WRITE_S = 5.0


class Rfc2217Console:
    """Bytes over a telnet connection."""

    def __init__(self, inner: Console, baud: int) -> None:
        self._inner = inner
        self._held = b""  # the beginning of a command
        offered = [bytes([IAC, WILL, option]) for option in OURS] + [bytes([IAC, DO, option]) for option in THEIRS]
        line = [
            struct.pack(">BI", SET_BAUDRATE, baud), bytes([SET_DATASIZE, 8]), bytes([SET_PARITY, NO_PARITY]),
            bytes([SET_STOPSIZE, ONE_STOP_BIT]), bytes([SET_CONTROL, NO_FLOW_CONTROL]),
        ]  # fmt: skip
        wanted = [bytes([IAC, SB, COM_PORT]) + _escaped(each) + bytes([IAC, SE]) for each in line]
        inner.write(b"".join([*offered, *wanted]), WRITE_S)

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        end = time.monotonic() + timeout_s
        while True:
            came = self._inner.read(max(end - time.monotonic(), 0))
            if data := self._take(came):
                return data
            if time.monotonic() >= end:
                return b""

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        self._inner.write(_escaped(data), deadline_s)

    def close(self) -> None:
        """See Console."""
        self._inner.close()

    def _take(self, came: bytes) -> bytes:
        """The data in it; commands are answered."""
        stream, self._held = self._held + came, b""
        data = bytearray()
        at = 0
        while at < len(stream):
            if stream[at] != IAC:
                end = stream.find(IAC, at)
                end = len(stream) if end < 0 else end
                data += stream[at:end]
                at = end
                continue
            size = self._command(stream[at : at + SUBNEGOTIATION_MAX], data)
            if not size:
                self._held = stream[at:]
                break
            at += size
        return bytes(data)

    def _command(self, stream: bytes, data: bytearray) -> int:
        """What begins with IAC: how long it is, 0 if it is not all there."""
        if len(stream) < 2:
            return 0
        kind = stream[1]
        if kind == IAC:
            data.append(IAC)
            return 2
        if kind == SB:
            end = stream.find(bytes([IAC, SE]), 2)
            if end < 0:
                return len(stream) if len(stream) == SUBNEGOTIATION_MAX else 0
            return end + 2  # what the server has set, and its modem lines
        if kind not in (DO, DONT, WILL, WONT):
            return 2
        if len(stream) < 3:
            return 0
        option = stream[2]
        if kind == DO and option not in OURS:
            self._inner.write(bytes([IAC, WONT, option]), WRITE_S)
        if kind == WILL and option not in THEIRS:
            self._inner.write(bytes([IAC, DONT, option]), WRITE_S)
        return 3


def _escaped(data: bytes) -> bytes:
    return data.replace(b"\xff", b"\xff\xff")
