"""Which faults of the reference machine the suites notice (docs/commands.md, *nsvm sensitivity --machine*)."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.record import BAD_VERDICTS
from harness.record.run import Run
from harness.reference.error import ReferenceMachineError
from harness.reference.faults import Fault

BAR_PERCENT = 95
MISSED = "missed-faults.toml"
NOTICED, UNNOTICED, UNDECIDED = "noticed", "not noticed", "undecided"
_KEPT_SUFFIXES = (".py", ".toml", ".asm", ".S", ".c", ".h")


@dataclass(frozen=True)
class Outcome:
    """What came of one fault. `by`: the test that noticed it; `paths`: what was run; `why` it is undecided."""

    fault: str
    state: str
    by: str = ""
    verdict: str = ""
    why: str = ""
    paths: Sequence[str] = ()
    seconds: float = 0.0


@dataclass
class Report:
    """The outcomes of the faults that were asked for, in their order."""

    faults: Sequence[Fault]
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a fault may go unnoticed, from missed-faults.toml."""

    def count(self, faults: Iterable[Fault]) -> int:
        """How many of them were noticed."""
        return sum(1 for fault in faults if self._is(fault, NOTICED))

    @property
    def missed(self) -> list[Fault]:
        """Those that no test noticed."""
        return [fault for fault in self.faults if self._is(fault, UNNOTICED)]

    @property
    def undecided(self) -> list[Fault]:
        """Those of which nothing is known: the run under them did not end."""
        return [f for f in self.faults if not (self._is(f, NOTICED) or self._is(f, UNNOTICED))]

    @property
    def percent(self) -> float:
        """The share that was noticed."""
        return 100 * self.count(self.faults) / len(self.faults) if self.faults else 100.0

    @property
    def exit_status(self) -> int:
        """1: below the bar, or a miss without a reason, or a fault of which nothing is known."""
        unexplained = [fault for fault in self.missed if fault.name not in self.reasons]
        return 1 if unexplained or self.undecided or self.percent < BAR_PERCENT else 0

    def _is(self, fault: Fault, state: str) -> bool:
        outcome = self.outcomes.get(fault.name)
        return outcome is not None and outcome.state == state


def first_deviation(run: Run) -> tuple[str, str] | None:
    """The test that deviates first as the baseline does not know, and its verdict."""
    for result in run.results:
        if result.news == "new" and result.verdict in BAD_VERDICTS:
            return result.test, result.verdict
    return None


def steps(fault: Fault, root: Path, paths: Sequence[str], hint: str = "") -> list[list[str]]:
    """What to run, one after the other until something deviates: the test that noticed it before, the suites of the
    fault's own area, the others. With `paths` only these.
    """
    first = [[hint]] if hint and (root / hint.partition("::")[0]).is_file() else []
    if paths:
        return [*first, list(paths)] if any(hint.startswith(path) for path in paths) else [list(paths)]
    folders = sorted(p.name for p in (root / "suites").iterdir() if p.is_dir() and any(p.glob("**/test_*.py")))
    own = [name for name in folders if name == fault.area]
    rest = [name for name in folders if name != fault.area]
    return [*first, *([f"suites/{name}" for name in part] for part in (own, rest) if part)]


def content_key(root: Path, program: str, paths: Sequence[str]) -> str:
    """Results hold as long as the machine (`program` names its content) and the suites are the same."""
    whole = hashlib.sha256(repr((program, sorted(paths))).encode())
    files = [p for folder in ("suites", "guest_payloads") for p in (root / folder).rglob("*")]
    files.append(root / "baselines" / "reference.toml")
    for path in sorted(files):
        if path.is_file() and path.suffix in _KEPT_SUFFIXES:
            whole.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """The decided outcomes that a file keeps, the last of each fault."""
    found: dict[str, Outcome] = {}
    for entry in _lines(path):
        with suppress(TypeError):
            outcome = Outcome(**entry)
            if outcome.state in (NOTICED, UNNOTICED):
                found[outcome.fault] = outcome
    return found


def keep(path: Path, outcome: Outcome) -> None:
    """Adds an outcome to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def hints(folder: Path) -> dict[str, str]:
    """The test that noticed each fault in any earlier run, of whatever suites: most likely it does so again."""
    known: dict[str, str] = {}
    with suppress(OSError):
        for path in sorted(folder.glob("*.jsonl"), key=lambda p: p.stat().st_mtime):
            known |= {name: one.by for name, one in read_outcomes(path).items() if one.by}
    return known


def load_reasons(path: Path, faults: Sequence[Fault]) -> dict[str, str]:
    """missed-faults.toml. Raises ReferenceMachineError, which names what is wrong."""
    names = {fault.name for fault in faults}
    reasons: dict[str, str] = {}
    try:
        for entry in tomllib.loads(path.read_text()).get("missed", ()):
            name, reason = entry.get("fault"), entry.get("reason")
            if name not in names:
                raise ValueError(f"there is no fault {name!r}")
            if not isinstance(reason, str) or not reason.strip():
                raise ValueError(f"{name}: say the reason")
            reasons[name] = reason
    except (OSError, ValueError, AttributeError) as error:
        raise ReferenceMachineError(f"{path.name}: {error}") from None
    return reasons


def render(report: Report) -> str:
    """The report for people."""
    lines = ["area            faults  noticed"]
    for area, of_area in _by_area(report.faults):
        seen = report.count(of_area)
        lines.append(f"{area:14} {len(of_area):7} {seen:8}  {100 * seen / len(of_area):4.0f} %")
    seen = report.count(report.faults)
    lines.append(f"{'all':14} {len(report.faults):7} {seen:8}  {report.percent:4.0f} %  (the bar: {BAR_PERCENT} %)")
    for title, chosen in (("no test notices", report.missed), ("nothing is known of", report.undecided)):
        if chosen:
            lines += ["", f"{title}:"]
        for fault in chosen:
            outcome = report.outcomes.get(fault.name)
            why = (
                report.reasons.get(fault.name) or (outcome.why if outcome else "not run") or "no reason is written down"
            )
            lines.append(f"  {fault.name} ({fault.area}): {fault.what} {why}")
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "percent": round(report.percent, 1),
        "bar_percent": BAR_PERCENT,
        "areas": {
            area: {"faults": len(of_area), "noticed": report.count(of_area)}
            for area, of_area in _by_area(report.faults)
        },
        "faults": [
            {"name": fault.name, "area": fault.area, "reason": report.reasons.get(fault.name, "")}
            | (asdict(report.outcomes[fault.name]) if fault.name in report.outcomes else {"state": "not run"})
            for fault in report.faults
        ],
    }


def _by_area(faults: Sequence[Fault]) -> Iterator[tuple[str, list[Fault]]]:
    for area in dict.fromkeys(fault.area for fault in faults):
        yield area, [fault for fault in faults if fault.area == area]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError), open(path) as file:
        for line in file:
            with suppress(ValueError):  # the last line of a run that was killed
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry
