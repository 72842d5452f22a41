"""What a test compared, and what of it a failing assert was about.

A Match notes where it was made and where it was asked, as far as somebody listens (`noting`). An assert that fails is
given the comparisons that were asked while it was evaluated, in its own line or in a helper that it called, and no
others: rows of another assert could let a baseline excuse the wrong thing.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from harness.judge.expect import ANY_OF, Match
from harness.judge.noting import listening

HARNESS = str(Path(__file__).resolve().parents[1])
CALLERS_MAX = 8  # how far up a helper may be called from an assert
ASKED_MAX = 4096  # of one test, the last ones


@dataclass(frozen=True, slots=True)
class Place:
    """A statement. `path` is as Python names the file; `source` is the statement, on one line."""

    path: str
    line: int
    source: str = ""

    def below(self, root: Path) -> str:
        """`suites/core/test_gif.py:31`: the file as seen from the root, and the line."""
        path = Path(self.path)
        return f"{path.relative_to(root) if path.is_relative_to(root) else path}:{self.line}"


@dataclass(frozen=True, slots=True)
class _Asking:
    """One bool(match). `chain` holds the frames from where it was asked upwards, each with its instruction and line."""

    match: Match
    held: bool
    chain: tuple[tuple[FrameType, int, int], ...]

    def within(self, frame: FrameType) -> tuple[int, int, FrameType | None] | None:
        """The instruction and line at which `frame` asked, and the frame that it had called for that."""
        child = None
        for each, instruction, line in self.chain:
            if each is frame:
                return instruction, line, child
            child = each
        return None


class Comparisons:
    """The comparisons of one attempt of a test, in order."""

    def __init__(self) -> None:
        self._made: list[tuple[Match, list[tuple[FrameType, int]]]] = []
        self._asked: deque[_Asking] = deque(maxlen=ASKED_MAX)
        self.asked = 0

    def note_made(self, match: Match, frame: FrameType | None) -> None:
        """A test has a comparison in its hands; `frame` made it, or is of the harness and was called for it."""
        while frame is not None and frame.f_code.co_filename.startswith(HARNESS):
            frame = frame.f_back
        chain: list[tuple[FrameType, int]] = []
        while frame is not None and len(chain) < CALLERS_MAX:
            chain.append((frame, frame.f_lineno))
            frame = frame.f_back
        if chain:
            self._made.append((match, chain))

    def note_asked(self, match: Match, held: bool, frame: FrameType | None) -> None:
        """A comparison was asked in `frame`."""
        self.asked += 1
        chain: list[tuple[FrameType, int, int]] = []
        while frame is not None and len(chain) < CALLERS_MAX:
            chain.append((frame, frame.f_lasti, frame.f_lineno))
            frame = frame.f_back
        self._asked.append(_Asking(match, held, tuple(chain)))

    def of_failure(self, error: AssertionError) -> tuple[Place | None, list[Match], bool]:
        """Where the assert stands that raised `error`, the comparisons that made it fail, and what they came to.

        All of them were false, or all were true where the assert asks for the contrary.
        """
        trace: Any = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is None:
            return None, [], False
        frame: FrameType = trace.tb_frame
        place, last = _statement(frame.f_code.co_filename, trace.tb_lineno)
        during = self._during(frame, place.line, last)
        false = [asking.match for asking in during if not asking.held]
        if false:
            return place, list({id(match): match for match in false}.values()), False
        return place, [asking.match for asking in during[-1:]], bool(during)

    def _during(self, frame: FrameType, first: int, last: int) -> list[_Asking]:
        """What was asked while the last statement of `frame` was evaluated, which spans these lines."""
        found: list[_Asking] = []
        later: tuple[int, FrameType | None, bool] | None = None
        for asking in reversed(self._asked):
            at = asking.within(frame)
            if at is None or not first <= at[1] <= last:
                break
            instruction, _, child = at
            # Within one statement instructions only go forward. At the same one a helper is still at work, or any() and
            # all() ask in a row: those that make an assert fail are all false. The rest is of a turn of a loop before.
            if later is not None and instruction >= later[0]:
                at_work = child is not None and child is later[1]
                in_a_row = child is None and later[1] is None and not asking.held and not later[2]
                if instruction > later[0] or not (at_work or in_a_row):
                    break
            later = instruction, child, asking.held
            found.append(asking)
        return found[::-1]

    def unasked(self, test: CodeType | None = None) -> Place | None:
        """The first comparison that was made and never asked; one that another in its assert made needless is not.

        The place is the one in `test`, if its function took part.
        """
        for match, chain in self._made:
            if not match.asked and not self._made_needless(chain):
                frame, line = next((at for at in chain if at[0].f_code is test), chain[0])
                return _statement(frame.f_code.co_filename, line)[0]
        return None

    def settled(self) -> list[tuple[str, str, str]]:
        """Of the comparisons that were asked and held, the rows with any of several values: row, allowed, what came."""
        held = {id(asking.match): asking.match for asking in self._asked if asking.held}
        rows = (row for match in held.values() for row in match.rows if row.ok and row.expected.startswith(ANY_OF))
        return list(dict.fromkeys((row.name, row.expected, row.got) for row in rows))

    def _made_needless(self, chain: Sequence[tuple[FrameType, int]]) -> bool:
        """Whether the comparison was made for an assert that asked another one: for `or`, or for any()."""
        for frame, line in chain:
            place, last = _statement(frame.f_code.co_filename, line)
            if place.source.startswith("assert"):
                return any((at := asking.within(frame)) and place.line <= at[1] <= last for asking in self._asked)
            if not (place.source.startswith("return") or frame.f_code.co_name.startswith("<")):
                return False  # it was kept here, and forgotten
        return False


@contextmanager
def noting() -> Iterator[Comparisons]:
    """Notes the comparisons that are made and asked meanwhile."""
    with listening(Comparisons()) as comparisons:
        yield comparisons


def surely_asserts(function: Any) -> bool:
    """Whether an assert of a function ran, if the function came to its end: one that no branch leads around."""
    code: CodeType = getattr(function, "__func__", function).__code__
    for node in ast.walk(_tree(code.co_filename)[0]):
        if isinstance(node, ast.FunctionDef) and _begins(node) == code.co_firstlineno:
            return _asserts_first(node.body) is True
    return False


def alternatives(frame: FrameType | None) -> Place | None:
    """The statement that asked a comparison in `frame`, if it does not simply assert it: it may be one of several that
    would do, or the contrary is asserted, or nothing is. None of a plain assert.
    """
    while frame is not None and frame.f_code.co_filename.startswith(HARNESS):
        frame = frame.f_back
    if frame is None:
        return Place("?", 0)
    place, _ = _statement(frame.f_code.co_filename, frame.f_lineno)
    try:
        parsed = ast.parse(place.source).body
    except SyntaxError:  # the head of an `if` or a loop
        return place
    if not parsed or not isinstance(parsed[0], ast.Assert):
        return place
    for node in ast.walk(parsed[0].test):
        if isinstance(node, ast.Or | ast.Not | ast.IfExp | ast.NotEq | ast.Is | ast.Eq):
            return place
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "any":
            return place
    return None


def _begins(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _asserts_first(body: list[ast.stmt]) -> bool | None:
    """True if an assert comes before anything that may leave the function, False if the latter, None if neither."""
    for node in body:
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Tuple | ast.List | ast.Constant):
            return True
        if isinstance(node, ast.With):
            found = _asserts_first(node.body)
            if found is not None:
                return found
        elif any(isinstance(each, ast.Return) for each in ast.walk(node)):
            return False
    return None


@cache
def _tree(path: str) -> tuple[ast.Module, str]:
    try:
        text = Path(path).read_text()
        return ast.parse(text), text
    except (OSError, ValueError, SyntaxError):
        return ast.Module([], []), ""


@cache
def _statement(path: str, line: int) -> tuple[Place, int]:
    """The statement that holds this line, and its last line. Of an `if` or a loop it is the head, one line."""
    tree, text = _tree(path)
    fits = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
        and not hasattr(node, "body")
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    if fits:
        node = fits[-1]
        source = " ".join((ast.get_source_segment(text, node) or "").split())
        return Place(path, node.lineno, source), node.end_lineno or node.lineno
    lines = text.splitlines()
    return Place(path, line, lines[line - 1].strip() if line <= len(lines) else ""), line
