"""One JSON object, asked for its fields by type; whatever it holds, there is an answer, and what is odd is noted."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from harness.record.writer import LIST_MAX

Word = TypeVar("Word", bound=str)


class Unusable(Exception):
    """The record lacks what it cannot do without."""


class Source:
    """One JSON object, asked for its fields; what is odd about them is collected in `odd`."""

    def __init__(self, obj: Mapping[str, object], odd: list[str]) -> None:
        self._obj = obj
        self.odd = odd

    def _complain(self, key: str, value: object) -> None:
        if len(self.odd) < 8:
            self.odd.append(f"{key!r} is a {type(value).__name__}")

    def has(self, key: str) -> bool:
        return self._obj.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        value = self._obj.get(key)
        if value is None:
            return default
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return ", ".join(str(item) for item in value[:LIST_MAX])
        if isinstance(value, dict):
            self._complain(key, value)
            return default
        return str(value)

    def needed(self, key: str) -> str:
        value = self.text(key)
        if not value:
            raise Unusable(f"it has no {key!r}")
        return value

    def one_of(self, key: str, known: Sequence[Word], otherwise: Word) -> Word:
        value = self.text(key)
        for word in known:
            if word == value:
                return word
        self.odd.append(f"{key!r} is {value[:40]!r}, taken for {otherwise!r}")
        return otherwise

    def whole(self, key: str) -> int:
        value = self._obj.get(key)
        number = integer(value)
        if number is None:
            if value is not None:
                self._complain(key, value)
            return 0
        return number

    def real(self, key: str) -> float:
        value = self._obj.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                if math.isfinite(float(value)):
                    return float(value)
        if value is not None:
            self._complain(key, value)
        return 0.0

    def flag(self, key: str) -> bool:
        value = self._obj.get(key)
        if value is not None and not isinstance(value, bool):
            self._complain(key, value)
        return value is True

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._obj.get(key)
        if value is None or value == "":
            return ()
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            return tuple(item if isinstance(item, str) else str(item) for item in value)
        self._complain(key, value)
        return ()

    def sub(self, key: str) -> Source | None:
        value = self._obj.get(key)
        if isinstance(value, dict):
            return Source(value, self.odd)
        if value is not None:
            self._complain(key, value)
        return None

    def subs(self, key: str) -> list[Source]:
        value = self._obj.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._complain(key, value)
            return []
        for item in value:
            if not isinstance(item, dict):
                self._complain(key, item)
        return [Source(item, self.odd) for item in value if isinstance(item, dict)]

    def raw(self, key: str) -> object:
        return self._obj.get(key)


def integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value, 0)
    return None
