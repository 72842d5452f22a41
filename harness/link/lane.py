"""The memory lane: requests and answers in memory that harness and guest share; one byte on the serial line rings.

docs/link-protocol.md, *The memory lane*. The serial line still carries frames (notes, the hello after a reset), so
what arrives there is sorted into doorbells and the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap

from harness.link.frames import FRAME_MIN, LENGTH, BadFrame, Decoded, Message, SerialDecoder, decode_lane, encode_lane
from harness.machine.base import Console

DOORBELL = b"\x01"
LEAVE = b"\x00"


class LaneChannel:
    """Sends and receives messages by shared memory. `memory` begins at guest-physical address 0."""

    def __init__(
        self, console: Console, memory: mmap, *, request_pa: int, request_size: int, answer_pa: int, answer_size: int
    ) -> None:
        if max(request_pa + request_size, answer_pa + answer_size) > len(memory) or min(request_size, answer_size) < 64:
            raise ValueError(f"the lane does not lie in the {len(memory):#x} bytes of shared memory")
        self._console = console
        self._memory = memory
        self._request_pa = request_pa
        self._answer_pa = answer_pa
        self._answer_size = answer_size
        self._doorbells = DoorbellDecoder()
        self.request_max = request_size - LENGTH.size - FRAME_MIN  # bytes of a body
        self.received = 0  # bytes that came over the serial line

    def encode(self, message: Message) -> bytes:
        """A message as `send` takes it."""
        return encode_lane(message)

    def send(self, framed: bytes, deadline_s: float) -> None:
        """Lays a message down and rings. The same bytes may be sent again while the executor still reads them."""
        self._memory[self._request_pa : self._request_pa + len(framed)] = framed
        self._console.write(DOORBELL, deadline_s)

    def nudge(self, framed: bytes, seq: int, deadline_s: float) -> bool:
        """Rings again for the same request, as nothing has come. True: the request itself was repeated."""
        self.send(framed, deadline_s)
        return True

    def poll(self) -> Decoded:
        """What lies in the answer area, for when a doorbell was lost. It may be old, or half written."""
        found = decode_lane(self._memory, self._answer_pa, self._answer_size)
        return BadFrame(f"in the lane: {found.reason}", b"") if isinstance(found, BadFrame) else found

    def receive(self, timeout_s: float) -> Sequence[Decoded]:
        """Waits for what comes next; empty if nothing did."""
        data = self._console.read(timeout_s)
        if not data:
            return ()
        self.received += len(data)
        rings, others = self._doorbells.feed(data)
        if not rings:
            return others
        # One look for any number of rings: only the newest answer is there.
        return [*others, self.poll()]

    @property
    def pending(self) -> bytes:
        """What has come on the serial line and is no whole frame yet."""
        return self._doorbells.frames.pending


class DoorbellDecoder:
    """Tells doorbells from frames on the serial line.

    A 01 between frames is a doorbell. It cannot begin a frame: a message begins with its version, which is not 0, so
    the first byte of its COBS form is 2 or more.
    """

    def __init__(self) -> None:
        self.frames = SerialDecoder()

    def feed(self, data: bytes) -> tuple[int, list[Decoded]]:
        """How many doorbells came, and what frames and noise were completed."""
        if data == DOORBELL and self.frames.idle:
            return 1, []
        rings = 0
        found: list[Decoded] = []
        while data:
            if self.frames.idle:
                rest = data.lstrip(b"\0\1")
                rings += data.count(DOORBELL, 0, len(data) - len(rest))
                data = rest
            end = data.find(b"\0") + 1 or len(data)
            found += self.frames.feed(data[:end])
            data = data[end:]
        return rings, found
