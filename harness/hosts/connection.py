"""One SSH connection to a host, and commands over it.

A dead connection is noticed: the host is asked for a sign of life every KEEPALIVE_S, and has ANSWER_S to give one,
whatever TCP believes. What ends the connection is kept as `lost_reason`. No thread outlives close().

Commands run one at a time, those behind open() apart: Dropbear (2022.82 to 2024.85, mkj/dropbear#173 and #326) closes a
channel whose command has not begun yet when another command ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import paramiko

from harness.hosts.errors import HostError
from harness.hosts.login import dial, login
from harness.hosts.spec import HostSpec
from harness.hosts.ssh_config import Place, resolve
from harness.text import printable

__all__ = ["Connection", "HostError", "Ran"]

KEEPALIVE_S = 5.0
ANSWER_S = 9.0
OUTPUT_MAX = 4 << 20  # bytes kept of each stream of a command; what comes after that is read and forgotten
CHUNK = 32768


@dataclass(frozen=True)
class Ran:
    """What a command gave. `status` is -1 if it died of a signal."""

    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Its output, printable, without the last newline."""
        return printable(self.out, OUTPUT_MAX).rstrip("\n")

    @property
    def complaint(self) -> str:
        """The last line that it wrote to stderr."""
        lines = [line.strip() for line in printable(self.err, 8192).splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


class Connection:
    """Connects when made. Its methods may be called from several threads."""

    def __init__(self, spec: HostSpec, *, deadline_s: float | None = None, place: Place | None = None) -> None:
        self.spec = spec
        self.place = place or resolve(spec)
        self.lost_reason: str | None = None
        self.on_beat: Callable[[], None] | None = None  # called every KEEPALIVE_S from the keeper
        self._closing = threading.Event()
        self._turn = threading.RLock()
        self._jump: Connection | None = None
        self._transport = self._connect(self.place, deadline_s or spec.connect_deadline_s)
        self._keeper = threading.Thread(target=self._keep, daemon=True, name=f"ssh {self.place.name}")
        self._keeper.start()

    @property
    def name(self) -> str:
        """The host's name, for messages."""
        return self.place.name

    def alive(self) -> bool:
        """Whether it stands, as far as is known."""
        return not self._closing.is_set() and self._transport.is_active()

    def run(self, script: str, *, input: bytes = b"", deadline_s: float = 20.0) -> Ran:
        """Runs shell text to its end. Raises HostError if the connection is lost or the deadline has passed."""
        deadline = time.monotonic() + deadline_s
        with self._alone(deadline_s):
            return self._run(script, input, deadline, deadline_s)

    def _run(self, script: str, input: bytes, deadline: float, deadline_s: float) -> Ran:
        channel = self.open(script, deadline_s=deadline_s)
        out, err = bytearray(), bytearray()
        try:
            try:
                _send(channel, input, deadline)
                channel.shutdown_write()
            except TimeoutError:
                raise
            except OSError:
                pass  # it ended without reading all of it: its status and stderr say why
            while time.monotonic() < deadline:
                channel.settimeout(max(min(deadline - time.monotonic(), 0.25), 0))
                try:
                    data = channel.recv(CHUNK)
                except TimeoutError:
                    _drain_stderr(channel, err)
                    continue
                _drain_stderr(channel, err)
                if not data:
                    break
                out += data[: OUTPUT_MAX - len(out)]
            channel.status_event.wait(max(deadline - time.monotonic(), 0))
            _drain_stderr(channel, err)
            if not self.alive():
                raise self._lost()
            if not channel.status_event.is_set():
                raise TimeoutError
            return Ran(channel.exit_status, bytes(out), bytes(err))
        except TimeoutError:
            if not self.alive():
                raise self._lost() from None
            what = "".join(script.split()[:1])[:60]
            said = printable(bytes(err), 4096)
            raise HostError(
                f"host {self.name}: a command ({what} ...) did not end within {deadline_s:.0f} s", said, passing=True
            ) from None
        finally:
            with contextlib.suppress(Exception):
                channel.close()

    def open(self, command: str, *, deadline_s: float = 10.0) -> paramiko.Channel:
        """Starts shell text whose stdin, stdout and stderr are the channel. Raises HostError."""
        with self._alone(deadline_s):
            return self._open(command, deadline_s)

    def _open(self, command: str, deadline_s: float) -> paramiko.Channel:
        if not self.alive():
            raise self._lost()
        channel: paramiko.Channel | None = None
        try:
            channel = self._transport.open_session(timeout=deadline_s)
            channel.settimeout(deadline_s)
            channel.exec_command(f"exec sh -c {shlex.quote(command)}")
        except (paramiko.SSHException, EOFError, OSError) as error:
            with contextlib.suppress(Exception):
                if channel is not None:
                    channel.close()
            if not self.alive():
                raise self._lost() from None
            said = str(error) or type(error).__name__
            raise HostError(f"host {self.name}: no command can be started there: {said}", passing=True) from None
        return channel

    def upload(self, data: bytes, path: str, mode: int = 0o600) -> bool:
        """Puts a file there, whole or not at all; False if it was there already. Raises HostError."""
        digest = hashlib.sha256(data).hexdigest()
        quoted = shlex.quote(path)
        there = self.run(f"sha256sum < {quoted} 2>/dev/null && chmod {mode:o} {quoted}")
        if there.status == 0 and there.out.split()[:1] == [digest.encode()]:
            return False
        # The connection may be cut half-way, which `cat` takes for the end: so the size is looked at before the name.
        script = (
            f't={quoted}.$$; umask 077; cat > "$t" && [ "$(wc -c < "$t")" -eq {len(data)} ] && '
            f'chmod {mode:o} "$t" && mv -f "$t" {quoted} || {{ rm -f "$t"; exit 1; }}'
        )
        ran = self.run(script, input=data, deadline_s=20.0 + len(data) / 50_000)
        if ran.status != 0:
            why = ran.complaint or "it came incompletely"
            raise HostError(
                f"host {self.name}: {path} ({len(data) >> 10} KiB) cannot be written there: {why}",
                printable(ran.err, 4096),
            )
        return True

    def close(self) -> None:
        """Ends it and its threads; may be called again."""
        self._closing.set()
        _end(self._transport)
        if self._keeper is not threading.current_thread():
            self._keeper.join(2)
        if self._jump is not None:
            self._jump.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _alone(self, deadline_s: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=max(deadline_s, 0)):
            raise HostError(
                f"host {self.name}: another command there has not ended within {deadline_s:.0f} s", passing=True
            )
        try:
            yield
        finally:
            self._turn.release()

    def _connect(self, place: Place, deadline_s: float) -> paramiko.Transport:
        deadline = time.monotonic() + deadline_s
        sock: socket.socket | paramiko.Channel
        try:
            if place.proxy is None:
                sock = dial(place, deadline_s)
            else:
                self._jump = Connection(self.spec, deadline_s=deadline_s, place=place.proxy)
                sock = self._jump._forward(place, deadline - time.monotonic())
            return login(place, sock, deadline - time.monotonic())
        except BaseException:
            if self._jump is not None:
                self._jump.close()
            raise

    def _forward(self, place: Place, deadline_s: float) -> paramiko.Channel:
        """A line from here to `place`."""
        here = ("127.0.0.1", 0)
        try:
            return self._transport.open_channel(
                "direct-tcpip", (place.address, place.port), here, timeout=max(deadline_s, 0.1)
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise HostError(
                f"host {place.name}: {self.place.address} does not reach {place.address} port {place.port}: {error}",
                passing=True,
            ) from None

    def _keep(self) -> None:
        while not self._closing.wait(KEEPALIVE_S):
            watchdog = threading.Timer(ANSWER_S, self._give_up)
            watchdog.daemon = True
            watchdog.start()
            try:
                self._transport.global_request("keepalive@openssh.com", wait=True)
                if self.on_beat is not None:
                    self.on_beat()
            except Exception:  # the connection is ending: alive() and lost_reason say it
                pass
            finally:
                watchdog.cancel()
            if not self._transport.is_active():
                return

    def _give_up(self) -> None:
        if not self._closing.is_set():
            self.lost_reason = f"no sign of life from the host for {ANSWER_S:.0f} s"
            _end(self._transport)

    def why_lost(self) -> str:
        """Why it is not alive."""
        if self.lost_reason is None:
            error = self._transport.get_exception()
            said = "" if error is None or isinstance(error, EOFError) else str(error)
            self.lost_reason = said or "the other side closed it"
            if self._closing.is_set():
                self.lost_reason = "it was closed"
        return self.lost_reason

    def _lost(self) -> HostError:
        return HostError(f"host {self.name}: the SSH connection was lost: {self.why_lost()}", passing=True)


def _send(channel: paramiko.Channel, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        sent = channel.send(bytes(view[:CHUNK]))
        if not sent:
            raise OSError("closed")
        view = view[sent:]


def _drain_stderr(channel: paramiko.Channel, into: bytearray) -> None:
    while channel.recv_stderr_ready():
        into += channel.recv_stderr(CHUNK)[: OUTPUT_MAX - len(into)]


def _end(transport: paramiko.Transport) -> None:
    with contextlib.suppress(Exception):
        transport.close()
    if transport is not threading.current_thread():
        transport.join(2)
