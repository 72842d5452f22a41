"""The clauses: what is checked, where it stands, who agrees. One TOML file or more in each suite's folder."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.names import nearest
from harness.svm.condition import contradict, features_of
from harness.svm.cpuid import Cpuid, svm_bit
from harness.svm.features import SVM_BITS

GROUPS = ("core", "policy", "later_bits", "advisories")
"""What may stand for a clause's `bit` and is none of Fn8000_000A EDX; the name of the suite's folder may, too."""
CLASSES = ("mandatory", "conditional", "any-of", "implementation-defined", "survive")
_KNOWN = {
    "id",
    "alias",
    "bit",
    "statement",
    "apm",
    "class",
    "condition",
    "trust",
    "hardware",
    "note",
    "universal",
    "not_tested",
}

F = TypeVar("F", bound=Callable[..., object])


class ClauseError(Exception):
    """A clause file is wrong. The text is one for people."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One normative statement."""

    id: str
    statement: str
    apm: str
    class_: str = "mandatory"
    bit: str = "core"
    alias: tuple[str, ...] = ()
    condition: str = ""
    trust: tuple[str, ...] = ()
    hardware: str = ""
    note: str = ""
    universal: bool = False
    not_tested: str = ""
    """Why no test asks it; "" where some test must."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Drafted clauses that are none, and why."""

    alias: tuple[str, ...]
    reason: str


def clause(*ids: str) -> Callable[[F], F]:
    """Says which clauses a test checks. The first one is the one it is about."""
    if not ids:
        raise ClauseError("a test names at least one clause")

    def mark(function: F) -> F:
        import pytest  # here: commands read clauses, and do without pytest

        marked: F = pytest.mark.clause(*ids)(function)
        return marked

    return mark


def in_force(clauses: Iterable[Clause], cpuid: Cpuid) -> tuple[list[Clause], str]:
    """The clauses of a test that can be asked on this CPU, and why there is none where there is none.

    All conditions must hold, so that a test is not run half. But where they can never hold together, as `NRIPS` and
    `!NRIPS`, the test asks both ways round, and the clauses whose conditions hold are asked.
    """
    stated = list(clauses)
    holding, missing = [], ""
    for one in stated:
        holds, reason = cpuid.evaluate_condition(one.condition)
        if holds:
            holding.append(one)
        else:
            missing = missing or f"{one.id} asks for {one.condition}: {reason}"
    if not missing or (holding and contradict([one.condition for one in stated])):
        return holding, ""
    return [], missing


def load_clauses(root: Path) -> dict[str, Clause]:
    """All clauses below `root` (the suites folder), by id. Raises ClauseError."""
    clauses: dict[str, Clause] = {}
    for path, tables in _files(root):
        for table in tables.get("clause", []):
            read = _clause(table, path)
            if read.id in clauses:
                raise ClauseError(f"{path}: {read.id} is there twice")
            clauses[read.id] = read
    return clauses


def load_dropped(root: Path) -> list[Dropped]:
    """The drafted clauses that were dropped, from the same files. Raises ClauseError."""
    dropped = []
    for path, tables in _files(root):
        for table in tables.get("dropped", []):
            if set(table) != {"alias", "reason"} or not table["alias"] or not table["reason"]:
                raise ClauseError(f"{path}: a [[dropped]] table has alias and reason, and nothing else")
            dropped.append(Dropped(_texts(table["alias"]), table["reason"]))
    return dropped


def _files(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(root.glob("*/clauses*.toml")):
        try:
            read = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ClauseError(f"{path}: {error}") from None
        unknown = set(read) - {"clause", "dropped"}
        if unknown:
            raise ClauseError(f"{path}: it holds [[clause]] and [[dropped]]; what is {', '.join(sorted(unknown))}?")
        yield path, read


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _is_svm_bit(name: str) -> bool:
    try:
        return not svm_bit(name).reserved
    except KeyError:
        return False


def _clause(table: dict[str, Any], path: Path) -> Clause:
    name = table.get("id", "?")
    unknown = set(table) - _KNOWN
    if unknown:
        raise ClauseError(f"{path}: {name}: unknown key {', '.join(sorted(unknown))}")
    for key in ("id", "statement", "apm", "trust"):
        if not table.get(key):
            raise ClauseError(f"{path}: {name}: {key} is missing; a clause without a source is no clause")
    class_ = table.get("class", "mandatory")
    if class_ not in CLASSES:
        raise ClauseError(f"{path}: {name}: class {class_!r} is none of {', '.join(CLASSES)}")
    bit, condition = str(table.get("bit", "core")), str(table.get("condition", ""))
    if bit not in (*GROUPS, path.parent.name) and not _is_svm_bit(bit):
        names = [*GROUPS, *(each.name for each in SVM_BITS if not each.reserved)]
        raise ClauseError(f"{path}: {name}: there is no bit {bit!r} in Fn8000_000A EDX{nearest(bit, names)}")
    try:
        features_of(condition)
    except ValueError as error:
        raise ClauseError(f"{path}: {name}: {error}") from None
    return Clause(
        id=name,
        statement=table["statement"],
        apm=table["apm"],
        class_=class_,
        bit=bit,
        alias=_texts(table.get("alias", [])),
        condition=condition,
        trust=tuple(table["trust"]),
        hardware=table.get("hardware", ""),
        note=table.get("note", ""),
        universal=bool(table.get("universal", False)),
        not_tested=table.get("not_tested", ""),
    )
