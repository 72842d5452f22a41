"""Our lines put into QEMU's text, each at an anchor: a short text that is found exactly once.

All edits of a file are looked up in its text as it came, never in one that another edit has changed, so the order of
features does not matter to what is found. At one spot, edits stand in the order in which they are given.
White space in an anchor stands for any white space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.reference.error import AnchorError

PLACES = ("before", "after", "replace")
ORIGINAL = "@ANCHOR@"
"""In the text of a `replace`: what was found."""


@dataclass(frozen=True)
class Edit:
    """One hook.

    `place`: "before" and "after" put `text` on lines of its own before the line where the anchor begins, or after the
    one where it ends, indented like the line where it begins; "replace" puts it in the anchor's place.
    `function`: only in the body of this function, or from its name on; `block`: only between the line that begins with
    this text and the next line that begins with a closing brace. `times`: how often the anchor is there.
    """

    feature: str
    file: str
    anchor: str
    place: str
    text: str
    what: str = ""
    function: str | None = None
    block: str | None = None
    times: int = 1
    clauses: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Change:
    """Text for text[begin:end]."""

    begin: int
    end: int
    text: str
    edit: Edit
    order: int


def apply(original: str, edits: Sequence[Edit]) -> str:
    """The text of one file with its edits. Raises AnchorError."""
    changes = [change for order, edit in enumerate(edits) for change in _changes(original, edit, order)]
    changes.sort(key=lambda change: (change.begin, change.end != change.begin, change.order))
    pieces: list[str] = []
    at = 0
    last: _Change | None = None
    for change in changes:
        if change.begin < at:
            assert last is not None
            raise _error(change.edit, f"the text is already replaced by feature {last.edit.feature}")
        pieces += [original[at : change.begin], change.text]
        at, last = change.end, change
    return "".join([*pieces, original[at:]])


def _changes(text: str, edit: Edit, order: int) -> list[_Change]:
    begin, end = _scope(text, edit)
    found = list(_pattern(edit.anchor).finditer(text, begin, end))
    if len(found) != edit.times:
        raise _error(edit, _count(len(found), edit.times))
    return [_change(text, edit, one, order) for one in found]


def _change(text: str, edit: Edit, found: re.Match[str], order: int) -> _Change:
    begin, end = found.span()
    if edit.place == "replace":
        return _Change(begin, end, edit.text.replace(ORIGINAL, found[0]), edit, order)
    line_begin = text.rfind("\n", 0, begin) + 1
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end + 1
    indent = re.match(r"[ \t]*", text[line_begin:])
    at = line_begin if edit.place == "before" else line_end
    return _Change(at, at, _indented(edit.text, indent[0] if indent else ""), edit, order)


def _indented(text: str, indent: str) -> str:
    """Lines with what the anchor's line is indented by; preprocessor lines stay at the margin."""
    lines = text.rstrip("\n").split("\n")
    return "".join(f"{'' if not line or line.startswith('#') else indent}{line}\n" for line in lines)


def _scope(text: str, edit: Edit) -> tuple[int, int]:
    """Where in the file the anchor is looked for."""
    if edit.function is not None:
        name = re.escape(edit.function)
        begin = re.compile(rf"^(?![ \t#/*])[^\n;{{}}=]*\b{name}[ \t]*\([^;{{}}]*\)\s*\n\{{", re.MULTILINE)
        what = f"function {edit.function}"
    elif edit.block is not None:
        begin = re.compile("^" + _pattern(edit.block).pattern, re.MULTILINE)
        what = f"block {edit.block!r}"
    else:
        return 0, len(text)
    found = list(begin.finditer(text))
    if len(found) != 1:
        raise _error(edit, f"{what} {_count(len(found), 1)}")
    end = re.compile(r"^\}", re.MULTILINE).search(text, found[0].end())
    if end is None:
        raise _error(edit, f"{what} has no end")
    name_at = text.find(edit.function, found[0].start()) if edit.function else found[0].start()
    return name_at, end.end()


def _pattern(anchor: str) -> re.Pattern[str]:
    return re.compile(r"\s+".join(re.escape(word) for word in anchor.split()))


def _count(found: int, wanted: int) -> str:
    if found == 0:
        return "is gone"
    return f"is there {found} times, not {'once' if wanted == 1 else wanted}"


def _error(edit: Edit, what: str) -> AnchorError:
    where = f" in {edit.function}()" if edit.function else ""
    anchor = " ".join(edit.anchor.split())
    return AnchorError(f"{edit.file}: feature {edit.feature}: anchor {anchor!r}{where}: {what}")
