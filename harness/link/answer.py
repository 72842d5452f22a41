"""The answer to one request, put together from its fragments."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Answer:
    """The answer to one request, as far as it has come."""

    seq: int
    count: int = 0
    parts: dict[int, bytes] = field(default_factory=dict)
    asked: bool = False  # for a fragment
    refusals: int = 0
    refused_last: bool = False
    refused_reason: int = 0
    frames: int = 0  # valid ones, of any kind

    def add(self, body: bytes, answer_max: int) -> str | None:
        """Takes one fragment; says what is wrong with it, if something is."""
        index, count = int.from_bytes(body[:2], "little"), int.from_bytes(body[2:4], "little")
        if len(body) < 4 or index >= count:
            return f"fragment {index} of {count} in a body of {len(body)} bytes"
        if self.count not in (0, count):
            return f"{count} fragments, {self.count} before"
        data = body[4:]
        if index in self.parts:
            return None if self.parts[index] == data else f"two different fragments {index}"
        if sum(map(len, self.parts.values())) + len(data) > answer_max:
            return f"more than {answer_max} bytes of answer"
        self.count = count
        self.parts[index] = data
        self.refused_last = False
        return None

    @property
    def whole(self) -> bool:
        """Whether every fragment has come."""
        return 0 < self.count == len(self.parts)

    @property
    def data(self) -> bytes:
        """All fragments together."""
        return b"".join(self.parts[index] for index in range(self.count))

    @property
    def missing(self) -> int | None:
        """The first fragment that is missing; None before any has come."""
        return next((index for index in range(self.count) if index not in self.parts), None)
