"""The outer machine's serial port: what Linux or Xen writes there, and whether that says that it is broken."""

from __future__ import annotations

import re
import socket
import threading

from harness.text import printable

CONSOLE_KEPT = 256 * 1024
_NOT_A_GUEST = r"^(?!\(d\d+\))[^\n]*?"  # Xen puts (d5) before what a guest writes to its console
PANIC = re.compile(_NOT_A_GUEST + r"(Kernel panic - not syncing[^\n]*)", re.MULTILINE)
OOPS = re.compile(
    _NOT_A_GUEST + r"((?:BUG: unable to handle |BUG: kernel NULL pointer |kernel BUG at )[^\n]*"
    r"|Oops: [^\n]*\[#\d+\][^\n]*|general protection fault[^\n]*\[#\d+\][^\n]*"
    r"|\(XEN\) [^\n]*FATAL (?:TRAP|PAGE FAULT)[^\n]*)",
    re.MULTILINE,
)
XEN_PLACE = re.compile(r"^\(XEN\)[^\n]*Xen call trace:\n\(XEN\)[^\n]*\] R (?:\S*#)?(\w+)\+0x", re.MULTILINE)
XEN_PANIC = re.compile(
    r"^\(XEN\) (?:\[[^\]\n]*\] )?Panic on CPU \d+:\s*\n(?:\(XEN\) (?:\[[^\]\n]*\] )?)?([^\n]*)", re.MULTILINE
)


class SerialLog:
    """Reads the serial port all the time and keeps the end of what came."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._data = bytearray()
        self._count = 0
        self._judged: tuple[int, str | None] = (0, None)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True, name="serial port of the outer machine")
        self._thread.start()

    def text(self) -> str:
        """What is kept of it, printable."""
        with self._lock:
            data = bytes(self._data)
        return printable(data, CONSOLE_KEPT)

    def fatal(self) -> str | None:
        """See fatal_line. Costs nothing while nothing comes; what is broken stays so when its line is kept no more."""
        count = self._count
        if self._judged[0] != count:
            self._judged = (count, fatal_line(self.text()) or self._judged[1])
        return self._judged[1]

    def close(self) -> None:
        """After QEMU has ended: takes its last words."""
        self._thread.join(0.5)
        self._socket.close()

    def _read(self) -> None:
        try:
            while data := self._socket.recv(65536):
                with self._lock:
                    self._data += data.replace(b"\r", b"")
                    del self._data[:-CONSOLE_KEPT]
                    self._count += len(data)
        except OSError:
            return


def fatal_line(console: str) -> str | None:
    """What a console says of a kernel or a Xen that is broken, on one line. None if it is not."""
    if found := XEN_PANIC.search(console):
        place = XEN_PLACE.search(console)
        where = f" in {place[1]}()" if place and place.start() < found.start() else ""
        return f"Xen panicked: {found[1].strip()[:200]}{where}"
    oops, panic = OOPS.search(console), PANIC.search(console)
    if panic is None:
        return f"the host's kernel is broken: {oops[1].strip()[:200]}" if oops else None
    first = f" (first: {oops[1].strip()[:120]})" if oops else ""
    return f"the host panicked: {panic[1].removeprefix('Kernel panic - not syncing:').strip()[:200]}{first}"
