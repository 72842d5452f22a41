"""Which runs there are in runs/, and the newest one of each machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.cli.paths import RUNS
from harness.record import FILE_NAME

_HEADS = (b'{"kind":"run"', b'{"kind":"scope"', b'{"kind":"target"')
_HEAD_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Found:
    """A run's folder, when it began (ISO 8601), and its machines: name with options, and whether all tests were run."""

    folder: Path
    started: str
    machines: dict[str, bool]


def runs_below(root: Path = RUNS) -> list[Found]:
    """The runs, newest first. A record that cannot be read is left out."""
    paths = [*root.glob(f"*/{FILE_NAME}"), *root.glob(f"*/[0-9]*/{FILE_NAME}")]
    found = [one for path in paths if not path.parent.is_symlink() for one in _peek(path)]
    return sorted(found, key=lambda each: each.started, reverse=True)


def newest(root: Path = RUNS) -> dict[str, Found]:
    """For each machine the newest run of all the suites; where there is none, the newest of a part."""
    runs = runs_below(root)
    chosen: dict[str, Found] = {}
    for whole in (True, False):
        for run in runs:
            for machine, is_whole in run.machines.items():
                if is_whole or not whole:
                    chosen.setdefault(machine, run)
    return chosen


def age(started: str, now: datetime | None = None) -> str:
    """`3 hours ago`, of a time as a record has it; "" of none."""
    try:
        began = datetime.fromisoformat(started)
    except ValueError:
        return ""
    if began.tzinfo is None:
        began = began.replace(tzinfo=UTC)
    minutes = max(0, round(((now or datetime.now(UTC)) - began).total_seconds() / 60))
    for size, word in ((60 * 24, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            number = minutes // size
            return f"{number} {word}{'s' * (number != 1)} ago"
    return "just now"


def _peek(path: Path) -> Iterator[Found]:
    """What the lines say that do not need the results to be read."""
    started = ""
    machines: dict[str, tuple[str, bool]] = {}
    try:
        with path.open("rb") as handle:
            for line in handle:
                if not line.startswith(_HEADS) or len(line) > _HEAD_MAX_BYTES:
                    continue
                try:
                    told = json.loads(line)
                    if told["kind"] == "run":
                        started = started or str(told["started"])
                    elif told["kind"] == "target":
                        machines.setdefault(str(told["target"]), (str(told["target"]), True))
                    else:
                        name = " ".join([str(told["target"]), *map(str, told.get("options", ()))])
                        machines[str(told["target"])] = (name, not told.get("chosen_by") and not told.get("ended_by"))
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError:
        return
    if machines:
        yield Found(path.parent, started, dict(machines.values()))
