"""Messages as frames on the console."""

from __future__ import annotations

from collections.abc import Sequence

from harness.link.frames import FRAME_BODY_MAX, Decoded, Message, MessageType, SerialDecoder, encode_serial
from harness.machine.base import Console


class SerialChannel:
    """Sends and receives messages as frames on the console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._decoder = SerialDecoder()
        self.request_max = FRAME_BODY_MAX
        self.received = 0

    def encode(self, message: Message) -> bytes:
        """A message as `send` takes it."""
        return encode_serial(message)

    def send(self, framed: bytes, deadline_s: float) -> None:
        """Sends a message."""
        self._console.write(framed, deadline_s)

    def nudge(self, framed: bytes, seq: int, deadline_s: float) -> bool:
        """Asks whether the executor is idle; the request itself is not repeated."""
        self.send(encode_serial(Message(MessageType.HELLO_REQUEST, seq, b"")), deadline_s)
        return False

    def poll(self) -> Decoded | None:
        """Nothing arrives here without being announced."""
        return None

    def receive(self, timeout_s: float) -> Sequence[Decoded]:
        """Waits for what comes next; empty if nothing did, or nothing whole."""
        data = self._console.read(timeout_s)
        self.received += len(data)
        return self._decoder.feed(data)

    @property
    def pending(self) -> bytes:
        """What has come and is no whole frame yet."""
        return self._decoder.pending
