"""A baseline file as text: entries are found, written and changed in it, so that comments and order stay."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cli.console import UserError
from harness.judge.baseline import Deviation

_HEADER = re.compile(r"^\s*\[\[?[^\]]*\]\]?\s*(#.*)?$")
_ENTRY = re.compile(r"^\s*\[\[\s*deviation\s*\]\]")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def entries(text: str, path: Path) -> list[tuple[int, int, Deviation]]:
    """Each entry: from which line to which (not included), and the clause, tests and verdict of it; raises UserError.

    Comments right above a header belong to it.
    """
    lines = text.splitlines(keepends=True)
    tables = tomllib.loads(text).get("deviation", [])
    blocks = _blocks(lines)
    if len(blocks) != len(tables):
        raise UserError(f"{path}: its entries cannot be separated; write each as a [[deviation]] of its own")
    return [
        (start, end, Deviation(str(table["clause"]), "", "", tests=tuple(table.get("tests", ()))))
        for (start, end), table in zip(blocks, tables, strict=True)
    ]


def string(text: str) -> str:
    """A TOML string on one line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def texts(key: str, values: Sequence[str]) -> str:
    """`key = [...]`, on one line where it is short."""
    line = f"{key} = [{', '.join(map(string, values))}]"
    if len(line) <= 120:
        return line
    return f"{key} = [\n" + "".join(f"    {string(value)},\n" for value in values) + "]"


def answers(got: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines `got.ROW = [...]`."""
    return [texts(f"got.{name if _BARE.fullmatch(name) else string(name)}", came) for name, came in got.items()]


def replaced(block: str, key: str, text: str) -> str:
    """The entry with `text` where it has `key`, or `key.` and more; before its reason where it has none."""
    spans = _spans(block, key)
    if not spans:
        at = _spans(block, "reason")[0][0]
        return block[:at] + (text + "\n" if text else "") + block[at:]
    kept = block
    for start, end in reversed(spans[1:]):
        kept = kept[:start] + kept[end:].removeprefix("\n")
    start, end = spans[0]
    behind = kept[end:]
    return kept[:start] + (text + behind if text else behind.removeprefix("\n"))


def _spans(block: str, key: str) -> list[tuple[int, int]]:
    """Where `key = value` stands, without what is behind the value on its line."""
    return [
        (found.start(), _value_end(block, found.end()))
        for found in re.finditer(rf"^[ \t]*{key}(\.[^=\n]+?)?[ \t]*=[ \t]*", block, re.MULTILINE)
    ]


def _value_end(text: str, at: int) -> int:
    """The end of a TOML value that begins there: a string, a list (of several lines, with comments), or a word."""
    depth, quote = 0, ""
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\" and quote == '"':
                at += 1
            elif char == quote:
                quote = ""
                if not depth:
                    return at + 1
        elif char in "\"'":
            quote = char
        elif char == "#" and depth:
            at = text.index("\n", at)
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if not depth:
                return at + 1
        elif not depth and char in " \t\n#":
            return at
        at += 1
    return at


def _blocks(lines: Sequence[str]) -> list[tuple[int, int]]:
    starts = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    blocks = []
    for number, start in enumerate(starts):
        if not _ENTRY.match(lines[start]):
            continue
        end = starts[number + 1] if number + 1 < len(starts) else len(lines)
        if end < len(lines):
            end = _above(lines, end)
        blocks.append((_above(lines, start), end))
    return blocks


def _above(lines: Sequence[str], at: int) -> int:
    """The first of the comment lines that stand right above a line, unless they begin the file."""
    first = at
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return at if first == 0 else first
