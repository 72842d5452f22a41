"""A TCP proxy on loopback that cuts, stalls and drops, to order."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path
from typing import Self

from tests.hosts.sshd import Sshd


class Proxy:
    """Passes connections on to a port of 127.0.0.1."""

    def __init__(self, to_port: int) -> None:
        self.say_first = b""
        self._to_port = to_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._stalled = threading.Event()
        self._ending = threading.Event()
        self._left: int | None = None  # bytes from the server, before everything is cut
        self._thread = threading.Thread(target=self._serve, daemon=True, name="proxy")
        self._thread.start()

    def known_hosts(self, sshd: Sshd) -> Path:
        """A known_hosts file that has the sshd's key for this port."""
        path = sshd.folder / "known_hosts_of_proxy"
        path.write_text(sshd.known_hosts.read_text().replace(f":{sshd.port} ", f":{self.port} "))
        return path

    def cut_after(self, count: int) -> None:
        """Cuts all connections when so many more bytes have come from the server."""
        self._left = count

    def stall(self) -> None:
        """Passes nothing on any more; TCP stays as it is."""
        self._stalled.set()

    def go_on(self) -> None:
        """Ends a stall."""
        self._stalled.clear()

    def drop(self) -> None:
        """Resets all connections."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    end.close()
        self._pairs = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ending.set()
        self._thread.join(20)
        self.drop()
        self._server.close()

    def _serve(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(OSError, ValueError):
                ends = {end: other for a, b in self._pairs for end, other in ((a, b), (b, a))}
                watched = [self._server, *([] if self._stalled.is_set() else ends)]
                for ready in select.select(watched, [], [], 0.02)[0]:
                    if ready is self._server:
                        self._accept()
                    elif not self._pass_on(ready, ends[ready]):
                        break

    def _accept(self) -> None:
        client, _ = self._server.accept()
        server = socket.create_connection(("127.0.0.1", self._to_port), timeout=20)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.say_first:
            client.sendall(self.say_first)
        self._pairs.append((client, server))

    def _pass_on(self, ready: socket.socket, other: socket.socket) -> bool:
        """False: the pairs have changed."""
        data = ready.recv(65536)
        if self._left is not None and any(ready is server for _, server in self._pairs):
            data, self._left = data[: self._left], self._left - len(data)
            if self._left <= 0:
                self._left = None
                if data:
                    other.sendall(data)
                self.drop()
                return False
        if not data:
            self._pairs = [pair for pair in self._pairs if ready not in pair]
            ready.close()
            other.close()
            return False
        other.sendall(data)
        return True
