"""Expected values, and the comparison of an answer with them.

A Match is true or false like a bool, so a test reads `assert exit.matches(code=VMEXIT.CPUID)`; when it is false it
says, row by row, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from harness.judge.noting import note_asked, note_made
from harness.svm.templates import OUTPUT_PATTERN


def fill_value(width_bytes: int) -> int:
    """The pre-fill pattern as an integer of that width."""
    return int.from_bytes(bytes([OUTPUT_PATTERN]) * width_bytes, "little")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several values is right: what the APM leaves open."""

    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Masked:
    """Only the bits in `mask` are stated."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Special:
    """A state rather than a value; see unwritten, written, unchanged."""

    name: str


ANY_OF = "any of "
"""How the expectation of a row begins where several values are right."""
ROWS_MAX = 64
"""So many rows a comparison has that takes in what later VMRUNs of its test came to."""

Expected = int | AnyOf | Masked | Special

unwritten = Special("unwritten")
written = Special("written")
unchanged = Special("unchanged")


def any_of(*values: int) -> AnyOf:
    """Any one of the values."""
    return AnyOf(tuple(values))


def masked(value: int, mask: int) -> Masked:
    """`value` in the bits of `mask`; the other bits are not stated."""
    return Masked(value & mask, mask)


def sign_extended(value: int, bits: int = 48) -> int:
    """The canonical form of an address: bit `bits`-1 copied upwards, as an unsigned 64-bit number."""
    low = value & (1 << bits) - 1
    return low | (((1 << 64) - (1 << bits)) if low >> (bits - 1) & 1 else 0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a row states, for who compares without Python: the value, in the bits of `mask`, is one of `values`; none of
    them if `negated`.
    """

    values: tuple[int, ...]
    mask: int
    width_bytes: int
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One compared value, as text for people."""

    name: str
    expected: str
    got: str
    meaning: str
    ok: bool
    wanted: Wanted | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Match:
    """The outcome of a comparison. `asked`: somebody wanted to know it. `of`: what was compared, an Exit for one."""

    title: str
    rows: list[Row] = field(default_factory=list)
    asked: bool = field(default=False, compare=False, repr=False)
    of: object = field(default=None, compare=False, repr=False)

    @property
    def holds(self) -> bool:
        """Whether all of it agrees. To ask this is not taken for what a failing assert was about, as `bool` is."""
        self.asked = True
        return bool(self.rows) and all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        held = self.holds
        note_asked(self, held)
        return held

    def take_in(self, later: Match) -> None:
        """Adds what `later` has that disagrees and was not seen so far, another answer in the same row, too."""
        seen = {(row.name, row.got) for row in self.rows if not row.ok}
        room = max(0, ROWS_MAX - len(self.rows))
        added = [row for row in later.rows if not row.ok and (row.name, row.got) not in seen][:room]
        self.rows += [replace(row, meaning=f"in a later VMRUN{row.meaning and '; ' + row.meaning}") for row in added]

    def __repr__(self) -> str:
        if not self.rows:
            return f"{self.title}: nothing was compared"
        names = max(len(row.name) for row in self.rows)
        lines = [self.title]
        for row in self.rows:
            mark = "ok " if row.ok else "NOT"
            meaning = f"   ({row.meaning})" if row.meaning else ""
            lines.append(f"  {mark} {row.name:<{names}}  expected {row.expected}  got {row.got}{meaning}")
        return "\n".join(lines)


def stated(title: str, rows: list[Row], of: object = None) -> Match:
    """A comparison that a test makes: it must be asked, or the test is wrong (see harness.judge.comparisons)."""
    match = Match(title, rows, of=of)
    note_made(match)
    return match


Describe = Callable[[str, int], str]


def compare(
    name: str,
    expected: Expected,
    got: int,
    *,
    width_bytes: int,
    before: int | None = None,
    describe: Describe | None = None,
) -> Row:
    """Compares one value.

    `before` is the value the field held before VMRUN, for `unchanged`. Raises ValueError for `unchanged` without it.
    """
    digits = width_bytes * 2
    say = describe or (lambda _name, _value: "")
    shown_got = hexadecimal(got, digits)
    fill = fill_value(width_bytes)
    every = (1 << 8 * width_bytes) - 1
    mask, negated = every, False
    allowed: tuple[int, ...]
    if got == fill and isinstance(expected, Special):
        shown_got += " (pre-fill)"
    match expected:
        case AnyOf(values):
            ok, allowed = got in values, values
            shown = ANY_OF + ", ".join(hexadecimal(value, digits) for value in values)
        case Masked(value, mask):
            ok, allowed = got & mask == value & mask, (value,)
            shown = f"{hexadecimal(value, digits)} under mask {hexadecimal(mask, digits)}"
        case Special("unwritten"):
            allowed = (fill,)
            ok, shown = got == fill, f"not written ({hexadecimal(fill, digits)})"
        case Special("written"):
            allowed, negated = (fill,), True
            ok, shown = got != fill, "written"
        case Special("unchanged"):
            if before is None:
                raise ValueError(f"{name}: unchanged needs the value before")
            allowed = (before,)
            ok, shown = got == before, f"unchanged ({hexadecimal(before, digits)})"
        case Special(other):
            raise ValueError(f"no such expectation: {other}")
        case value:
            wanted = int(value) & (1 << 8 * width_bytes) - 1
            allowed = (wanted,)
            ok, shown = got == wanted, hexadecimal(wanted, digits)
    meanings = [say(name, got)]
    if not ok and isinstance(expected, int):
        meanings = [
            f"expected {text}" if n == 0 else f"got {text}"
            for n, text in enumerate((say(name, int(expected)), say(name, got)))
            if text
        ]
    stands = Wanted(tuple(value & every for value in allowed), mask & every, width_bytes, negated)
    return Row(name, shown, shown_got, "; ".join(text for text in meanings if text), ok, stands)


def hexadecimal(value: int, digits: int) -> str:
    """The value as APM prints it: 0000_0000_0000_0081h. A negative one, such as a mask ~FFFh, in as many digits."""
    text = f"{value % (1 << 4 * digits) if value < 0 else value:0{digits}X}"
    groups = [text[max(0, end - 4) : end] for end in range(len(text), 0, -4)][::-1]
    return "_".join(groups) + "h"
