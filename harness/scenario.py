"""A scenario: memory, VMCBs and steps, as data that can be stored, hashed and run on any target.

A page of memory is kept whole and becomes compact only when it is compiled for a boot: as a copy of a template page
that the boot already holds and the bytes that differ from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import places, steps
from harness.steps import Op, Step

PAGE = 4096
_JOIN_BYTES = 16  # two differing runs closer than this are cheaper as one MEM_WRITE


@dataclass(frozen=True, slots=True)
class Page:
    """One page of memory. `like` names the template that it differs little from, if any."""

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

    def to_json(self) -> list[dict[str, Any]]:
        """The scenario as JSON-safe data."""
        return [
            {"page": item.addr, "data": item.data.hex()}
            if isinstance(item, Page)
            else {"op": int(item.op), "flags": item.flags, "body": item.body.hex(), "label": item.label}
            for item in self.items
        ]

    @classmethod
    def from_json(cls, stored: Iterable[dict[str, Any]]) -> Scenario:
        """Reads what to_json gave; raises ValueError or KeyError for anything else."""
        items: list[Item] = []
        for entry in stored:
            if "page" in entry:
                items.append(Page(int(entry["page"]), bytes.fromhex(entry["data"])))
            else:
                items.append(Step(Op(entry["op"]), bytes.fromhex(entry["body"]), entry["flags"], entry["label"]))
        return cls(items)


class Templates:
    """Pages that one boot of the executor holds already, by content."""

    def __init__(self) -> None:
        self._slots: dict[bytes, int] = {}
        self._limit = places.TEMPLATES_SIZE // PAGE

    def place(self, page: bytes) -> tuple[int | None, list[Step]]:
        """Where the page lies, and the steps that put it there if it is not there yet. None where there is no slot
        left."""
        if page in self._slots:
            return self._slots[page], []
        if len(self._slots) >= self._limit:
            return None, []
        addr = places.TEMPLATES + PAGE * len(self._slots)
        self._slots[page] = addr
        return addr, plain_page(addr, page)


def compile_items(items: Sequence[Item], templates: Templates) -> list[Step]:
    """The steps to send for these items, given what the boot holds."""
    compiled: list[Step] = []
    for item in items:
        if isinstance(item, Step):
            compiled.append(item)
            continue
        base, uploads = templates.place(item.like) if item.like else (None, [])
        compiled += uploads
        if base is None or item.like is None:
            compiled += plain_page(item.addr, item.data)
        else:
            compiled.append(steps.mem_copy(item.addr, base, PAGE))
            compiled += write_differences(item.addr, item.like, item.data)
    return compiled


def plain_page(addr: int, data: bytes) -> list[Step]:
    """A page written from nothing: its commonest byte as a fill, then the rest."""
    filler = max(set(data), key=data.count)
    return [steps.mem_fill(addr, len(data), filler), *write_differences(addr, bytes([filler]) * len(data), data)]


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
