"""Shows how a run gets on by reading its record as it grows: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from harness.record import AFTER_OTHERS
from harness.text import line

LINE_EVERY_S = 10.0
SHOWN_MAX = 12
LINE_MAX = 600
REASON_MAX = 160
PART_MAX = 80

_COLLECTED = re.compile(rb"collected (\d+) items?(?: / \d+ deselected / (\d+) selected)?")
_WORKERS = re.compile(rb"^\d+ workers? \[(\d+) items?\]", re.MULTILINE)


def planned_tests(output: bytes) -> int | None:
    """How many tests pytest said it will run, with or without xdist."""
    found = _WORKERS.findall(output)
    if found:
        return int(found[-1])
    collected = _COLLECTED.search(output)
    return int(collected[2] or collected[1]) if collected else None


@dataclass
class Tail:
    """Reads a JSON-lines file that another process appends to: whole lines only, and nothing it cannot read."""

    path: Path
    at: int = 0
    rest: bytes = b""

    def poll(self) -> list[dict[str, Any]]:
        """The lines that came since the last call."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                data = file.read()
        except OSError:
            return []
        self.at += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        read = []
        for each in lines:
            try:
                value = json.loads(each)
            except ValueError:
                continue
            if isinstance(value, dict):
                read.append(value)
        return read


@dataclass
class Counts:
    """Where a run stands."""

    target: str
    total: int | None = None
    tests: dict[str, str] = field(default_factory=dict)
    """What is known of each test: "ok", "new", "known", "mended", "skipped" or "lost"."""
    part: str = ""
    """What makes it a part of the whole: "-k asid_zero", "--without NRIPS"."""

    @property
    def name(self) -> str:
        """The target, and what part is run on it."""
        return f"{self.target} ({self.part})" if self.part else self.target

    def take(self, record: dict[str, Any]) -> str | None:
        """Counts one record; gives a line to show at once if it is one a person waits for."""
        kind = record.get("kind")
        if kind == "scope":
            told = [*_texts(record.get("chosen_by")), *_texts(record.get("options"))]
            self.part = line(" ".join(told), PART_MAX)
        if kind == "result":
            verdict, news = str(record.get("verdict", "")), str(record.get("news", ""))
            test = str(record.get("test", ""))
            self.tests[test] = "lost" if verdict in ("ERROR", "MISS") else news
            if self.tests[test] in ("new", "mended", "lost"):
                fresh = record.get("fresh")
                others = isinstance(fresh, dict) and fresh.get("state") == AFTER_OTHERS
                what = {"new": f"new {verdict}{' after others' * others}", "mended": "mended", "lost": verdict}[
                    self.tests[test]
                ]
                said = _mended(record) if what == "mended" else str(record.get("reason", ""))
                return line(f"{what:10} {test}: {said[:REASON_MAX]}", LINE_MAX)
        return None

    def number(self, state: str) -> int:
        """Tests in that state."""
        return sum(value == state for value in self.tests.values())

    def summary(self) -> str:
        """The numbers that are not 0, in words."""
        states = ("new", "mended", "lost", "known", "skipped")
        return ", ".join(f"{self.number(state)} {state}" for state in states if self.number(state)) or (
            "nothing new" if self.tests else "nothing yet"
        )


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _mended(record: dict[str, Any]) -> str:
    """The clauses that are mended; the reason may speak of what else deviates in that test."""
    checks = record.get("checks")
    mended = [each for each in checks if isinstance(each, dict) and each.get("news") == "mended"] if checks else []
    return ", ".join(str(each.get("clause", "")) for each in mended) or str(record.get("reason", ""))


def _more(shown: int) -> str:
    return f"  and {shown - SHOWN_MAX} more: the report has them all"


class Display(Protocol):
    """Somewhere to show it."""

    def show(self, counts: Counts) -> None: ...

    def line(self, text: str) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Nowhere: pytest's own output is shown instead."""

    def show(self, counts: Counts) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """For logs: a line every few seconds, and one for each thing that is new. `whose`: what such a line begins with."""

    def __init__(self, stream: TextIO, whose: str = "") -> None:
        self._stream = stream
        self._whose = whose
        self._started = self._last = time.monotonic()
        self._shown = 0
        self._counts: Counts | None = None

    def show(self, counts: Counts) -> None:
        self._counts = counts
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._print(counts)

    def line(self, text: str) -> None:
        self._shown += 1
        if self._shown <= SHOWN_MAX:
            print(f"  {self._whose}{text}", file=self._stream, flush=True)

    def close(self) -> None:
        if self._shown > SHOWN_MAX:
            print(_more(self._shown), file=self._stream, flush=True)
        if self._counts is not None and self._counts.tests:
            self._print(self._counts)

    def _print(self, counts: Counts) -> None:
        self._last = time.monotonic()
        of = f"/{counts.total}" if counts.total else ""
        elapsed = self._last - self._started
        print(
            f"{counts.name}: {len(counts.tests)}{of} tests, {counts.summary()}, {elapsed:.0f} s",
            file=self._stream,
            flush=True,
        )


class Bar:
    """For terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._shown = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("starting", total=None, summary="")
        self._progress.start()

    def show(self, counts: Counts) -> None:
        description = counts.name if counts.tests else f"{counts.target}: booting"
        self._progress.update(
            self._task,
            description=description,
            total=counts.total,
            completed=len(counts.tests),
            summary=counts.summary(),
        )

    def line(self, text: str) -> None:
        self._shown += 1
        if self._shown <= SHOWN_MAX:
            self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        if self._shown > SHOWN_MAX:
            self._progress.console.print(_more(self._shown), markup=False, highlight=False)
        self._progress.stop()
