"""A lab with one machine: its console on a TCP port that outlives its boots, its power over HTTP as PDUDaemon has it.

What boots is chosen by `boot`, asked at each power on: a function that gives a connected socket, the machine's serial
line, and one that ends the machine.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

End = Callable[[], None]
Boot = Callable[[], tuple[socket.socket, End]]


class Lab:
    """Used in a `with` block. `power` has what was asked of the power; `mangle` changes what the machine says."""

    def __init__(self, boot: Boot, *, on: bool = False) -> None:
        self.boot = boot
        self.power: list[str] = []
        self.deaf = False  # the PDU answers, and does nothing
        self.broken = False  # the PDU refuses
        self.greeting = b""  # what who connects is told first
        self.tail = bytearray()  # the end of what the machine has said
        self.mangle: Callable[[bytes], bytes] = lambda data: data
        self._line: socket.socket | None = None
        self._end: End = lambda: None
        self._console: socket.socket | None = None
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._threads = [
            threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True),
            threading.Thread(target=self._relay, daemon=True),
        ]
        if on:
            self.switch_on()

    @property
    def console(self) -> str:
        return f"socket://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def pdu(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def toml(self, boot: str, more: str = "", *, patience_s: float = 20.0) -> str:
        """The lab file's text for it, as machine "one"; `boot` is the boot table's content."""
        return f"""
[metal.one]
console = "{self.console}"
off_s = 0.0
round_trip_s = 0.005
boot_deadline_s = {patience_s}
grace_s = {patience_s}
emulated = true
{more}
[metal.one.power]
driver = "pdudaemon"
url = "{self.pdu}"
hostname = "pdu"
port = "7"
[metal.one.boot]
{boot}
"""

    def __enter__(self) -> Lab:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.switch_off()
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        self.cut()

    def switch_on(self) -> None:
        with self._lock:
            if self._line is None:
                self._line, self._end = self.boot()

    def switch_off(self) -> None:
        with self._lock:
            line, self._line = self._line, None
            if line is not None:
                self._end()
                line.close()

    def _reset(self, line: socket.socket) -> None:
        """The machine ended by itself, as QEMU does at a reset with -no-reboot; not where it was switched off."""
        with self._lock:
            if self._line is line:
                self.switch_off()
                self.switch_on()

    def cut(self, which: socket.socket | None = None) -> None:
        """The console server drops who is connected; only `which`, where that is given."""
        with self._lock:
            if which is not None and self._console is not which:
                return
            console, self._console = self._console, None
        if console is not None:
            with suppress(OSError):
                console.shutdown(socket.SHUT_RDWR)
            console.close()

    def await_text(self, text: bytes, deadline_s: float) -> None:
        """Waits until the machine has said this."""
        end = time.monotonic() + deadline_s
        while text not in self.tail:
            assert time.monotonic() < end, f"{text!r} did not come within {deadline_s} s: {bytes(self.tail[-300:])!r}"
            time.sleep(0.05)

    def say(self, data: bytes) -> None:
        """As if the machine had said it."""
        with self._lock:
            if self._console is not None:
                self._console.sendall(data)

    def _relay(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                line, console = self._line, self._console
            watched = [each for each in (self._listener, line, console) if each is not None]
            try:
                ready = select.select(watched, [], [], 0.02)[0]
            except (OSError, ValueError):
                continue  # closed meanwhile
            for each in ready:
                try:
                    if each is self._listener:
                        fresh = self._listener.accept()[0]
                        self.cut()
                        self._console = fresh
                        self.say(self.greeting)
                        continue
                    data = each.recv(65536)
                    if each is line:
                        if not data:
                            self._reset(line)
                        else:
                            self.tail += data
                            del self.tail[:-4096]
                            self.say(self.mangle(data))
                    elif not data:
                        self.cut(console)
                    elif line is not None:
                        line.sendall(data)
                except OSError:
                    if each is console:
                        self.cut(console)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        lab = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                verb = asked.path.rpartition("/")[2]
                known = asked.path.startswith("/power/control/") and parse_qs(asked.query) == {
                    "hostname": ["pdu"], "port": ["7"],
                }  # fmt: skip
                lab.power.append(verb)
                if not known or lab.broken:
                    self.send_error(500 if known else 404, "the PDU does not answer" if known else "no such port")
                    return
                if not lab.deaf:
                    lab.switch_on() if verb == "on" else lab.switch_off()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
