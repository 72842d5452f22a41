"""The last of what L0 said, bounded, with positions that stay: "everything since then" costs no round trip."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from harness.hosts.problems import Grade

RING_MAX: Final = 512 * 1024  # characters kept
LINE_MAX: Final = 1000
TEXT_MAX: Final = 64 * 1024  # what since() gives at most
BEFORE = 20  # lines kept with a bad one, whatever floods the ring afterwards
AFTER = 80
FOUND_MAX = 64  # of each grade; the latest stay


@dataclass
class Found:
    """A bad line, with what stood around it."""

    at: int
    grade: Grade
    line: str
    around: list[str] = field(default_factory=list)
    after: int = 0


class Ring:
    """Lines numbered from 0. One thread appends, others read."""

    def __init__(self, limit: int = RING_MAX) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._lines: deque[str] = deque()
        self._first = 0
        self._size = 0
        self._found: dict[Grade, deque[Found]] = {grade: deque(maxlen=FOUND_MAX) for grade in Grade}
        self._open: Found | None = None

    @property
    def position(self) -> int:
        """The number of the next line."""
        with self._lock:
            return self._first + len(self._lines)

    def append(self, line: str, grade: Grade | None = None) -> None:
        """Adds a line, which is cut if it is long."""
        if len(line) > LINE_MAX:
            line = f"{line[:LINE_MAX]} [... {len(line) - LINE_MAX} more characters]"
        with self._lock:
            if self._open is not None:
                self._open.around.append(line)
                self._open.after += 1
                if self._open.after >= AFTER:
                    self._open = None
            if grade is not None:
                self._note(line, grade)
            self._lines.append(line)
            self._size += len(line) + 1
            while self._size > self._limit and len(self._lines) > 1:
                self._size -= len(self._lines.popleft()) + 1
                self._first += 1

    def _note(self, line: str, grade: Grade) -> None:
        found = Found(self._first + len(self._lines), grade, line)
        if self._open is None and grade > Grade.NOTEWORTHY:
            found.around = [*islice(self._lines, max(0, len(self._lines) - BEFORE), None), line]
            self._open = found
        self._found[grade].append(found)

    def found(self, since: int, least: Grade = Grade.NOTEWORTHY) -> list[Found]:
        """The bad lines from a position on, the first first."""
        with self._lock:
            return self._bad(since, least)

    def _bad(self, since: int, least: Grade) -> list[Found]:
        known = [item for grade, items in self._found.items() if grade >= least for item in items if item.at >= since]
        return sorted(known, key=lambda item: item.at)

    def since(self, position: int, limit: int = TEXT_MAX) -> str:
        """The text from a position on: its beginning and its end if it is long, and it says what is left out.

        What stood around the first bad line is kept even where the ring is full of what came later.
        """
        with self._lock:
            start = max(position, self._first)
            lines = list(islice(self._lines, start - self._first, None))
            gone = [item for item in self._bad(position, Grade.STALL) if item.at < start and item.around]
            around = list(gone[0].around) if gone else []
        if start == position:
            return _bounded(lines, limit)
        kept = _bounded(around, limit // 3)
        note = f"[... {start - position} lines came, of which no more is kept ...]"
        return "\n".join([*([kept] if kept else []), note, _bounded(lines, limit - len(kept) - len(note) - 2)])


def _bounded(lines: list[str], limit: int) -> str:
    """A quarter of the room for the beginning, the rest for the end."""
    if sum(len(line) + 1 for line in lines) <= limit:
        return "\n".join(lines)
    head: list[str] = []
    room = limit // 4
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        head.append(line)
    tail: deque[str] = deque()
    room = limit - limit // 4 - 60
    for line in reversed(lines[len(head) :]):
        room -= len(line) + 1
        if room < 0:
            break
        tail.appendleft(line)
    left_out = len(lines) - len(head) - len(tail)
    return "\n".join([*head, f"[... {left_out} lines left out ...]", *tail])
