"""Who hears of the comparisons that a test makes and asks: one listener at a time, or none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar


class Listener(Protocol):
    """Hears of each comparison, with the frame in which it was made or asked."""

    def note_made(self, match: Any, frame: FrameType | None) -> None: ...
    def note_asked(self, match: Any, held: bool, frame: FrameType | None) -> None: ...


L = TypeVar("L", bound=Listener)

_listener: Listener | None = None
_overhearing: Listener | None = None


@contextmanager
def listening(listener: L) -> Iterator[L]:
    """`listener` hears of what happens meanwhile; the one of before hears nothing."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield listener
    finally:
        _listener = before


@contextmanager
def overhearing(listener: L) -> Iterator[L]:
    """`listener` hears of what is asked meanwhile, whoever else listens."""
    global _overhearing
    before, _overhearing = _overhearing, listener
    try:
        yield listener
    finally:
        _overhearing = before


def note_made(match: object) -> None:
    """The caller's caller made a comparison."""
    if _listener is not None:
        _listener.note_made(match, sys._getframe(2))


def note_asked(match: object, held: bool) -> None:
    """The caller's caller asked one."""
    if _listener is not None:
        _listener.note_asked(match, held, sys._getframe(2))
    if _overhearing is not None:
        _overhearing.note_asked(match, held, sys._getframe(2))
