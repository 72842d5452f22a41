"""Baselines: what is known to deviate on a target, with a reason. Strict: a deviation that is gone is reported as
well."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record import Verdict

_KNOWN: dict[str, type] = {
    "clause": str,
    "tests": list,
    "verdict": str,
    "reason": str,
    "reference": str,
    "versions": str,
    "severity": str,
    "attack": str,
    "seen": list,
    "fields": list,
    "got": dict,
    "says": str,
    "sometimes": bool,
    "after_others": bool,
}
_SAID = {str: "a text", list: "a list of texts", bool: "true or false", dict: 'as in got.exitcode = ["0060h"]'}
SEVERITIES = ("high", "medium", "low", "none")
"""How bad a deviation is, as an attacker in L1 or L2 sees it."""
_PART = re.compile(r"(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)")


Rows = Sequence[tuple[str, str]]
"""What differs: the name of each row, and what came in it."""


class BaselineError(Exception):
    """A baseline file is wrong. The text is one for people."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One known deviation. `tests` are node ids behind the "::", `*` standing for anything; empty: every test.

    `got` names the rows that may differ ("tlb_control"), and for each what may come (`*` standing for anything):
    another row, and another answer, is news. `fields` names rows in which anything may come. An entry with neither
    excuses whatever the clause's comparison came to.
    `says` (`*` standing for anything) must stand in the reason of a CRASH, of a HANG, or of a FAIL that compared
    nothing: another one is news.
    `sometimes`: it shows by chance, so that a pass is no news. `after_others`: it shows after other tests of the same
    boot and not on a fresh one; it excuses nothing that a fresh boot shows.
    `severity`, `attack` (what an attacker in L1 or L2 gains) and `seen` (versions) make it a finding in
    docs/findings.md.
    """

    clause: str
    reason: str
    reference: str
    verdict: Verdict = "FAIL"
    tests: tuple[str, ...] = ()
    versions: str = ""
    severity: str = ""
    attack: str = ""
    seen: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    got: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    says: str = ""
    sometimes: bool = False
    after_others: bool = False

    @property
    def always(self) -> bool:
        """True if it shows whenever its tests are run, so that a pass means that it is mended."""
        return not self.sometimes and not self.after_others

    def covers(self, clause: str, test: str) -> bool:
        """True if it speaks of that clause in that test (a node id)."""
        name = test.rpartition("::")[2]
        return self.clause == clause and (not self.tests or any(like(pattern, name) for pattern in self.tests))

    def knows(self, row: tuple[str, str]) -> bool:
        """True if this row may differ, and what came in it is known."""
        name, came = row
        return name in self.fields or any(like(pattern, came) for pattern in self.got.get(name, ()))

    def excuses(self, rows: Rows, reason: str) -> bool:
        """True if it knows that these rows differ and what came in them, or, where none does, the reason."""
        if self.says and (not like(f"*{self.says}*", reason) or (rows and self.verdict == "FAIL")):
            return False
        if not self.fields and not self.got:
            return True
        return bool(rows) and all(self.knows(row) for row in rows)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The known deviations of one target at one version."""

    deviations: tuple[Deviation, ...] = ()

    @classmethod
    def load(cls, path: Path, version: tuple[int, ...]) -> Baseline:
        """Reads a baseline file, keeping what applies to `version`; no file is an empty baseline. Raises
        BaselineError."""
        return cls(tuple(deviation for deviation in read_all(path) if in_range(deviation.versions, version)))

    @classmethod
    def load_all(cls, paths: Iterable[Path], version: tuple[int, ...]) -> Baseline:
        """Several files as one, the first to speak of a test counts: L0's own, then what lies below it."""
        return cls(tuple(deviation for path in paths for deviation in cls.load(path, version).deviations))

    def known(
        self, clause: str, test: str, verdict: Verdict, rows: Rows = (), reason: str = "", *, after_others: bool = False
    ) -> Deviation | None:
        """The entry that expects this verdict of this clause in this test, if there is one. `rows` are those that
        differ, `reason` says how the target was lost. `after_others`: a fresh boot does not show it.
        """
        for entry in self.deviations:
            if entry.after_others and not after_others:
                continue
            if entry.verdict == verdict and entry.covers(clause, test) and entry.excuses(rows, reason):
                return entry
        return None

    def news_among(self, clause: str, test: str, rows: Rows) -> Rows:
        """Of the rows of a new FAIL those that the entry which knows most of them does not know."""
        entries = (d for d in self.deviations if d.verdict == "FAIL" and d.covers(clause, test))
        left = ([row for row in rows if not entry.knows(row)] for entry in entries)
        return min((unknown for unknown in left if unknown), key=len, default=rows)

    def promised(self, clause: str, test: str) -> Deviation | None:
        """An entry that names this test (not merely its clause) and so says that it deviates."""
        return next((d for d in self.deviations if d.tests and d.always and d.covers(clause, test)), None)


def read_all(path: Path) -> list[Deviation]:
    """All entries of a baseline file, for whatever version; no file has none. Raises BaselineError."""
    if not path.exists():
        return []
    try:
        read = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BaselineError(f"{path}: {error}") from None
    tables = read.pop("deviation", [])
    read.pop("offers", None)  # harness/judge/offers.py reads them
    if read or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BaselineError(f"{path}: it holds [[deviation]] and [[offers]] entries and nothing else{_named(read)}")
    return [_deviation(table, path) for table in tables]


def in_range(versions: str, version: tuple[int, ...]) -> bool:
    """True if `version` satisfies e.g. ">=7.2,<8". An empty range holds all versions. Raises BaselineError."""
    if not versions.strip():
        return True
    for part in versions.split(","):
        found = _PART.fullmatch(part.strip())
        if not found:
            raise BaselineError(f"version range {versions!r}: {part.strip()!r} is not like >=7.2")
        bound = tuple(int(number) for number in found[2].split("."))
        width = max(len(bound), len(version))
        left, right = (v + (0,) * (width - len(v)) for v in (version, bound))
        holds = {">=": left >= right, "<=": left <= right, "==": left == right, "<": left < right, ">": left > right}
        if not holds[found[1]]:
            return False
    return True


def like(pattern: str, name: str) -> bool:
    """True if the pattern fits; `*` stands for anything."""
    # Only `*` is special: test ids are full of the brackets that fnmatch would take for sets.
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), name, re.DOTALL) is not None


def _named(keys: Iterable[str]) -> str:
    return "".join(f"; what is {key}?" for key in keys)


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, dict):
        return kind is dict and all(isinstance(came, list) and came and _fits(came, list) for came in value.values())
    return isinstance(value, kind) and (not isinstance(value, list) or all(isinstance(each, str) for each in value))


def _deviation(table: dict[str, Any], path: Path) -> Deviation:
    name = table.get("clause", "?")
    unknown = set(table) - set(_KNOWN)
    if unknown:
        raise BaselineError(f"{path}: {name}: unknown key {', '.join(sorted(unknown))}")
    for key, value in table.items():
        if not _fits(value, _KNOWN[key]):
            raise BaselineError(f"{path}: {name}: {key} must be {_SAID[_KNOWN[key]]}")
    for key in ("clause", "reason", "reference"):
        if not table.get(key, "").strip():
            raise BaselineError(f"{path}: {name}: {key} is missing")
    verdict = table.get("verdict", "FAIL")
    if verdict not in ("FAIL", "CRASH", "HANG"):
        raise BaselineError(f"{path}: {name}: verdict {verdict!r} is none of FAIL, CRASH, HANG")
    in_range(table.get("versions", ""), ())
    if (table.get("fields") or table.get("got")) and verdict != "FAIL":
        raise BaselineError(f"{path}: {name}: rows differ in a FAIL (fields, got); a {verdict} has none")
    if table.get("says") and (table.get("fields") or table.get("got")):
        raise BaselineError(f"{path}: {name}: says is for what compares nothing, without fields or got")
    severity = table.get("severity", "")
    if severity and (severity not in SEVERITIES or not table.get("attack")):
        raise BaselineError(f"{path}: {name}: severity is one of {', '.join(SEVERITIES)}, and attack says why")
    return Deviation(
        clause=name,
        reason=table["reason"],
        reference=table["reference"],
        verdict=verdict,
        tests=tuple(table.get("tests", ())),
        versions=table.get("versions", ""),
        severity=severity,
        attack=table.get("attack", ""),
        seen=tuple(table.get("seen", ())),
        fields=tuple(table.get("fields", ())),
        got={row: tuple(came) for row, came in table.get("got", {}).items()},
        says=table.get("says", ""),
        sometimes=table.get("sometimes", False),
        after_others=table.get("after_others", False),
    )
