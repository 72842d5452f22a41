"""Writes a record: bounded lines, each with one write, so that what is written survives a kill."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from harness.record.kinds import Line

FILE_NAME: Final = "run.jsonl"
LINE_MAX_BYTES: Final = 8 << 20
LIST_MAX: Final = 20_000
_STRING_MAX: Final = 64 << 10
_DEPTH_MAX: Final = 12
_INT_MAX_BITS: Final = 128


def _cut(text: str, limit: int) -> str:
    """`text` with its middle taken out, saying so, when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    kept = limit // 2
    return f"{text[:kept]}\n[... {len(text) - 2 * kept} characters left out ...]\n{text[-kept:]}"


def _plain(value: object, string_max: int, list_max: int, depth: int = 0) -> object:
    """`value` as what JSON can say, bounded; whatever it is, there is an answer."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= _INT_MAX_BITS else f"[an integer of {number.bit_length()} bits]"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return _cut(str.__str__(value), string_max)
    if isinstance(value, bytes | bytearray | memoryview):
        return _cut(bytes(value).hex(), string_max)
    if depth > _DEPTH_MAX:
        return "[nested too deeply]"
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name.rstrip("_"): getattr(value, f.name) for f in fields(value)}
        return {k: _plain(v, string_max, list_max, depth + 1) for k, v in named.items()}
    if isinstance(value, Mapping):
        items = list(value.items())[:list_max]
        return {_cut(str(k), 200): _plain(v, string_max, list_max, depth + 1) for k, v in items}
    if isinstance(value, Iterable):
        out: list[object] = []
        for item in value:
            if len(out) >= list_max:
                break
            out.append(_plain(item, string_max, list_max, depth + 1))
        return out
    try:
        return _cut(repr(value), string_max)
    except Exception:
        return f"[a {type(value).__name__}]"


def encode(record: Line | Mapping[str, object]) -> bytes:
    """The line of a record with its newline: ASCII, at most LINE_MAX_BYTES. What does not fit is cut; text says so."""
    kind: object
    if isinstance(record, Mapping):
        kind = record.get("kind", "")
        source: object = {k: v for k, v in record.items() if k != "kind"}
    else:
        kind, source = record.KIND, record
    for string_max, list_max in ((_STRING_MAX, LIST_MAX), (4096, 500), (512, 100), (64, 20), (64, 0)):
        body = _plain(source, string_max, list_max)
        assert isinstance(body, dict)
        line = json.dumps({"kind": str(kind), **body}, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        if len(line) < LINE_MAX_BYTES:
            return line.encode("ascii") + b"\n"
    raise AssertionError("a record without its lists fits a line")


class Writer:
    """Appends records to `path`, each with one write of one whole line, so that what is written survives a kill.

    Several processes may hold a Writer on one path; after a fork each opens its own. Raises OSError (a full disk);
    a line left torn by that is closed off before the next one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._torn = _ends_torn(self.path)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, record: Line | Mapping[str, object]) -> None:
        """Append one record. Odd values in it never raise."""
        line = encode(record)
        if self._torn:
            line = b"\n" + line
        self._torn = True
        while line:
            line = line[os.write(self._fd, line) :]
        self._torn = False

    def close(self) -> None:
        """Put what was written on the disk, and close. A second call does nothing."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ends_torn(path: Path) -> bool:
    """Whether the file ends inside a line."""
    try:
        with path.open("rb") as handle:
            if handle.seek(0, os.SEEK_END) == 0:
                return False
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) != b"\n"
    except FileNotFoundError:
        return False
