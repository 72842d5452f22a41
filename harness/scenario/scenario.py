"""A scenario: memory, VMCBs and steps, as data that can be hashed and run on any target.

A page of memory is kept whole and becomes compact only when it is compiled for a boot: as a copy of a template that
the boot already holds and the bytes that differ from it. What a test writes in bulk (descriptor tables, handlers) is
its own template, so it goes over the line once a boot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.scenario import places, steps
from harness.scenario.steps import Step

PAGE = 4096
_JOIN_BYTES = 16  # two differing runs closer than this are cheaper as one MEM_WRITE
_BULK_BYTES = 128  # from here on a copy of a template is worth its step
_PERIODS = (2, 4, 8, 16)
_ALIGN = 64  # of templates


@dataclass(frozen=True, slots=True)
class Page:
    """A page of memory or less. `like`, as long as it, is the template that it differs little from, if any."""

    addr: int
    data: bytes
    like: bytes | None = None


Item = Step | Page


@dataclass(slots=True)
class Scenario:
    """What to run, in order."""

    items: list[Item] = field(default_factory=list)

    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of the scenario's canonical bytes."""
        return hashlib.sha256(b"".join(_canonical(item) for item in self.items)).hexdigest()[:12]


class Templates:
    """Pieces of memory that one boot of the executor holds already, by content. Where there is no room left, it
    forgets them all and starts over: steps are done in order, so copies that were compiled before find the old ones.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._next = places.TEMPLATES

    def place(self, data: bytes) -> tuple[int, list[Step]]:
        """Where it lies, and the steps that put it there if it is not there yet."""
        if data in self._places:
            return self._places[data], []
        if self._next + len(data) > places.TEMPLATES + places.TEMPLATES_SIZE:
            self._places.clear()
            self._next = places.TEMPLATES
        addr = self._next
        self._next += -(-len(data) // _ALIGN) * _ALIGN
        self._places[data] = addr
        return addr, plain_page(addr, data)


def compile_items(items: Sequence[Item], templates: Templates) -> list[Step]:
    """The steps to send for these items, given what the boot holds."""
    compiled: list[Step] = []
    for item in items:
        if isinstance(item, Step):
            compiled.append(item)
            continue
        if item.like is None:
            compiled += plain_page(item.addr, item.data)
        else:
            base, uploads = templates.place(item.like)
            compiled += uploads
            compiled.append(steps.mem_copy(item.addr, base, len(item.data)))
            compiled += write_differences(item.addr, item.like, item.data)
    return compiled


def memory(addr: int, data: bytes) -> list[Item]:
    """Memory to be written, in pieces that a boot needs only once."""
    if len(data) < _BULK_BYTES:
        return list(steps.mem_write(addr, data))
    if data.count(data[0]) == len(data):
        return [steps.mem_fill(addr, len(data), data[0])]
    pieces = [(addr + at, data[at : at + PAGE]) for at in range(0, len(data), PAGE)]
    return [Page(place, piece, piece) for place, piece in pieces]


def plain_page(addr: int, data: bytes) -> list[Step]:
    """A page written from nothing: what repeats itself by copying it, else its commonest byte as a fill, then the
    rest.
    """
    for period in _PERIODS:
        if len(data) > _BULK_BYTES and data[period:] == data[:-period] and len(set(data[:period])) > 1:
            return _repeated(addr, data, period)
    filler = max(set(data), key=data.count)
    return [steps.mem_fill(addr, len(data), filler), *write_differences(addr, bytes([filler]) * len(data), data)]


def _repeated(addr: int, data: bytes, period: int) -> list[Step]:
    """The first `period` bytes, and copies that double what is there."""
    written = steps.mem_write(addr, data[:period])
    done = period
    while done < len(data):
        size = min(done, len(data) - done)
        written.append(steps.mem_copy(addr + done, addr, size))
        done += size
    return written


def write_differences(addr: int, old: bytes, new: bytes) -> list[Step]:
    """MEM_WRITEs that turn `old` at `addr` into `new`."""
    writes: list[Step] = []
    for start, end in differing_runs(old, new, _JOIN_BYTES):
        writes += steps.mem_write(addr + start, new[start:end])
    return writes


def differing_runs(old: bytes, new: bytes, join_bytes: int = 0) -> list[tuple[int, int]]:
    """The ranges [start, end) in which two equally long byte strings differ, runs closer than join_bytes joined."""
    if len(old) != len(new):
        raise ValueError("only equally long strings can be compared")
    runs: list[tuple[int, int]] = []
    for block in range(0, len(new), 64):
        if old[block : block + 64] == new[block : block + 64]:
            continue
        for at in range(block, min(block + 64, len(new))):
            if old[at] == new[at]:
                continue
            if runs and at - runs[-1][1] <= join_bytes:
                runs[-1] = (runs[-1][0], at + 1)
            else:
                runs.append((at, at + 1))
    return runs


def _canonical(item: Item) -> bytes:
    if isinstance(item, Page):
        return b"P" + item.addr.to_bytes(8, "little") + item.data
    return b"S" + item.encode()
