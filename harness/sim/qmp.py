"""QEMU's control protocol (QMP) on a socket whose other end QEMU was given."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from harness.sim.error import SimError

LINE_MAX = 4 << 20
POLL_S = 0.01


class Qmp:
    """The client. Events are dropped."""

    def __init__(self, connected: socket.socket, deadline_s: float) -> None:
        self._socket = connected
        self._buffer = bytearray()
        self._read_line(time.monotonic() + deadline_s)  # the greeting
        self.execute("qmp_capabilities", deadline_s=deadline_s)

    def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        deadline_s: float = 10.0,
        fds: Sequence[int] = (),
    ) -> Any:
        """One command and its answer. Raises SimError."""
        deadline = time.monotonic() + deadline_s
        message = json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n"
        try:
            self._socket.settimeout(max(deadline_s, 0.001))
            if fds:
                sent = socket.send_fds(self._socket, [message], list(fds))
                message = message[sent:]
            if message:
                self._socket.sendall(message)
        except OSError as error:
            raise SimError(f"QEMU's monitor takes no {command}: {error}") from None
        while True:
            answer = self._read_line(deadline)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise SimError(f"QEMU refuses {command}: {answer['error'].get('desc', answer['error'])}")

    def human(self, line: str, deadline_s: float = 10.0) -> str:
        """A command of the human monitor."""
        return str(self.execute("human-monitor-command", {"command-line": line}, deadline_s=deadline_s))

    def wait_status(self, wanted: Sequence[str], deadline_s: float) -> str:
        """Waits until the machine is in one of these states."""
        deadline = time.monotonic() + deadline_s
        while True:
            status = str(self.execute("query-status", deadline_s=max(deadline - time.monotonic(), 0.1))["status"])
            if status in wanted:
                return status
            if time.monotonic() >= deadline:
                raise SimError(f"the outer machine is {status} after {deadline_s:.0f} s, not {' or '.join(wanted)}")
            time.sleep(POLL_S)

    def save(self, fd: int, deadline_s: float) -> None:
        """Writes the machine's state to an open file."""
        deadline = time.monotonic() + deadline_s
        self.execute("getfd", {"fdname": "state"}, fds=[fd])
        self.execute("migrate-set-parameters", {"max-bandwidth": 100 << 30})
        self.execute("migrate", {"uri": "fd:state"})
        while True:
            answer = self.execute("query-migrate")
            match answer.get("status"):
                case "completed":
                    return
                case "failed" | "cancelled":
                    raise SimError(f"QEMU could not save the machine: {answer.get('error-desc', answer['status'])}")
            if time.monotonic() >= deadline:
                raise SimError(f"QEMU had not saved the machine after {deadline_s:.0f} s")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Ends it; may be called again."""
        self._socket.close()

    def _read_line(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise SimError("QEMU's monitor does not answer")
            if len(self._buffer) > LINE_MAX:
                raise SimError("QEMU's monitor sends too long a line")
            try:
                self._socket.settimeout(left)
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                raise SimError(f"QEMU's monitor is gone: {error}") from None
            if not data:
                raise SimError("QEMU's monitor is gone")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        try:
            answer = json.loads(line)
        except ValueError:
            raise SimError("QEMU's monitor sends no JSON") from None
        return answer if isinstance(answer, dict) else {}
