"""Reads a record as it comes: a line that is no record becomes a Problem and never ends the reading."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Final

from harness.record.decode import DECODERS
from harness.record.kinds import Line, Problem
from harness.record.source import Source, Unusable
from harness.record.writer import LINE_MAX_BYTES

_KIND_START: Final = b'{"kind":'  # cannot stand inside a JSON string, where the quotes would be escaped


def _no_constant(name: str) -> None:
    """NaN and the infinities are not JSON; they read as null."""


def _parse(line: bytes) -> Mapping[str, object] | None:
    try:
        value = json.loads(line.decode("utf-8", errors="replace"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _brief(obj: Mapping[str, object]) -> Mapping[str, object]:
    """A result without its evidence and the rows of its checks, which are most of a record."""
    short = {key: value for key, value in obj.items() if key not in ("evidence", "fresh")}
    checks = short.get("checks")
    if isinstance(checks, list):
        short["checks"] = [{k: v for k, v in c.items() if k != "rows"} if isinstance(c, dict) else c for c in checks]
    return short


def _decode(number: int, obj: Mapping[str, object], brief: bool) -> Iterator[Line | Problem]:
    kind = obj.get("kind")
    if brief and kind == "result":
        obj = _brief(obj)
    decoder = DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        yield Problem(number, f"line {number} is of a kind this reader does not know: {str(kind)[:40]!r}", grave=False)
        return
    source = Source(obj, [])
    try:
        record = decoder(source)
    except Unusable as error:
        yield Problem(number, f"line {number}, a {kind} record, is left out: {error}")
        return
    yield record
    if source.odd:
        yield Problem(number, f"line {number}, a {kind} record: {'; '.join(source.odd[:4])}", grave=False)


def read(path: str | os.PathLike[str], *, brief: bool = False) -> Iterator[Line | Problem]:
    """The records of a file as they come, with a Problem for each line that is not one. Raises OSError.

    `brief` leaves out the evidence, the fresh boots and the rows of results, for who wants verdicts alone.
    """
    with open(path, "rb") as handle:
        number = 0
        while line := handle.readline(LINE_MAX_BYTES + 1):
            number += 1
            whole = line.endswith(b"\n")
            if not whole and len(line) > LINE_MAX_BYTES:
                while (rest := handle.readline(LINE_MAX_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield Problem(number, f"line {number} is longer than {LINE_MAX_BYTES} bytes and was skipped")
                continue
            if not line.strip():
                continue
            obj = _parse(line)
            if obj is not None:
                yield from _decode(number, obj, brief)
                continue
            # A writer died in mid-line; another one's record may be glued to what it left.
            at = line.rfind(_KIND_START)
            glued = _parse(line[at:]) if at > 0 else None
            if glued is not None:
                yield Problem(number, f"line {number} begins with a torn record, which is lost")
                yield from _decode(number, glued, brief)
            elif not whole:
                yield Problem(
                    number,
                    f"the record ends in the middle of line {number}: its writer was killed, or the disk was full",
                    torn=True,
                )
            else:
                yield Problem(number, f"line {number} is not a record ({len(line)} bytes): it was torn or damaged")
