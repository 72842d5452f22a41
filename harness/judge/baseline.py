"""Baselines: what is known to deviate on a target, with a reason. Strict: a deviation that is gone is reported as
well."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    "says": str,
    "sometimes": bool,
}
_SAID = {str: "a text", list: "a list of texts", bool: "true or false"}
SEVERITIES = ("high", "medium", "low", "none")
"""How bad a deviation is, as an attacker in L1 or L2 sees it."""
_PART = re.compile(r"(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)")


class BaselineError(Exception):
    """A baseline file is wrong. The text is one for people."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One known deviation. `tests` are node ids behind the "::", `*` standing for anything; empty: every test.

    `fields` names the rows that may differ ("tlb_control"): another one in the same clause is news all the same.
    `says` must stand in what a CRASH or HANG is told with: another death of the target is news.
    `sometimes`: whether it shows depends on what ran before on the same boot, so that a pass is no news.
    `severity`, `attack` (what an attacker in L1 or L2 gains) and `seen` (versions) make it a finding in
    docs/findings.md.
    """

    clause: str
    reason: str
    reference: str
    verdict: str = "FAIL"
    tests: tuple[str, ...] = ()
    versions: str = ""
    severity: str = ""
    attack: str = ""
    seen: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    says: str = ""
    sometimes: bool = False

    def covers(self, clause: str, test: str) -> bool:
        """True if it speaks of that clause in that test (a node id)."""
        name = test.rpartition("::")[2]
        return self.clause == clause and (not self.tests or any(_like(pattern, name) for pattern in self.tests))


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
        self, clause: str, test: str, verdict: str, fields: Iterable[str] = (), reason: str = ""
    ) -> Deviation | None:
        """The entry that expects this verdict of this clause in this test, if there is one. `fields` differ; `reason`
        is what a loss of the target was told with.

        An entry with fields excuses nothing but them: neither another one, nor a failure that names none.
        """
        differing = set(fields)
        for entry in self.deviations:
            if entry.verdict == verdict and entry.covers(clause, test):
                if entry.fields and not (differing and differing <= set(entry.fields)):
                    continue
                if entry.says not in reason:
                    continue
                return entry
        return None

    def promised(self, clause: str, test: str) -> Deviation | None:
        """An entry that names this test (not merely its clause) and so says that it deviates."""
        return next((d for d in self.deviations if d.tests and not d.sometimes and d.covers(clause, test)), None)


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


def _like(pattern: str, name: str) -> bool:
    # Only `*` is special: test ids are full of the brackets that fnmatch would take for sets.
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), name) is not None


def _named(keys: Iterable[str]) -> str:
    return "".join(f"; what is {key}?" for key in keys)


def _fits(value: object, kind: type) -> bool:
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
    if table.get("fields") and verdict != "FAIL":
        raise BaselineError(f"{path}: {name}: fields differ in a FAIL; a {verdict} has none")
    if table.get("says") and verdict == "FAIL":
        raise BaselineError(f"{path}: {name}: says is for a CRASH or a HANG; what differs in a FAIL are fields")
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
        says=table.get("says", ""),
        sometimes=table.get("sometimes", False),
    )
