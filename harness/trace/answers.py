"""Keeps the answers that a target gave to each test: `pytest --nsvm-answers FILE` writes one line a test.

`nsvm sensitivity` replays them with one answer altered at a time; `nsvm record` makes a trace of them. A call over
which the target was lost has its place among the answers.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.guest.guest import Guest
from harness.guest.l1 import L1
from harness.link.hello import Hello
from harness.link.session import TargetLost
from harness.record import AFTER_OTHERS, NEWS, VERDICTS, News, Result, Verdict
from harness.record.source import Source
from harness.scenario.answer_bytes import encode_record
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Record, split_records


@dataclass(frozen=True)
class Lost:
    """In an answer's place: the target was lost over this call. The fields are those of TargetLost."""

    verdict: Verdict
    what: str
    reason: str


Call = list[Record] | Lost
Calls = list[Call]


class AnswersError(Exception):
    """A file of answers cannot be read or written. The text is one line for people."""


@dataclass(frozen=True)
class Recorded:
    """One test's answers on one target. A test that was skipped has none.

    `asked` has the digest of each call's scenario; `settled` the comparisons with any of several values that held, as
    row, what was allowed, what came.
    """

    test: str
    target: str
    verdict: Verdict
    news: News
    packed: str = ""
    reason: str = ""
    clauses: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    watchdog_us: int = 0
    after_others: bool = False
    settled: tuple[tuple[str, str, str], ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the verdict is one to build on: passed, skipped, or a deviation that is known."""
        return self.verdict in ("PASS", "SKIP") or self.news == "known"

    def line(self) -> str:
        """The line of the file."""
        told = asdict(self)
        told["answers"] = told.pop("packed")
        return json.dumps(told) + "\n"

    def unpack(self) -> tuple[Hello, Calls]:
        """The hello and the answer records of each call. Raises AnswersError."""
        try:
            stored = json.loads(zlib.decompress(base64.b64decode(self.packed)))
            return Hello.parse(base64.b64decode(stored["hello"])), [decode_call(call) for call in stored["calls"]]
        except Exception as error:  # whatever is wrong with a damaged line, it is the line that is wrong
            raise AnswersError(f"the answers of {self.test} cannot be read: {error}") from error


def encode_call(call: Call) -> str | dict[str, str]:
    """A call for JSON: the answer records in base64, or what is known of the loss."""
    return asdict(call) if isinstance(call, Lost) else base64.b64encode(b"".join(map(encode_record, call))).decode()


def decode_call(told: str | dict[str, str]) -> Call:
    """The other way round. Raises ValueError and the like for what is none."""
    if isinstance(told, dict):
        return Lost(Source(told, []).one_of("verdict", VERDICTS, "CRASH"), told["what"], told["reason"])
    return split_records(base64.b64decode(told))


def pack(hello: Hello, calls: Calls) -> str:
    """A test's answers as text."""
    stored = json.dumps(
        {"hello": base64.b64encode(hello.pack()).decode(), "calls": [encode_call(call) for call in calls]}
    )
    return base64.b64encode(zlib.compress(stored.encode(), 9)).decode()


def begin(path: Path) -> None:
    """Makes the file empty, before any worker appends to it. Raises AnswersError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    except OSError as error:
        raise AnswersError(f"--nsvm-answers {path}: {error.strerror}") from None


def read_answers(path: Path) -> Iterator[Recorded]:
    """The tests of a file. Raises AnswersError."""
    try:
        with path.open() as lines:
            for number, line in enumerate(lines, 1):
                try:
                    told = json.loads(line)
                    fields = Source(told, [])
                    recorded = Recorded(
                        str(told["test"]),
                        str(told["target"]),
                        fields.one_of("verdict", VERDICTS, "ERROR"),
                        fields.one_of("news", NEWS, "new"),
                        str(told["answers"]),
                        str(told.get("reason", "")),
                        tuple(map(str, told.get("clauses", ()))),
                        tuple(map(str, told.get("asked", ()))),
                        int(told.get("watchdog_us", 0)),
                        bool(told.get("after_others", False)),
                        tuple((str(row), str(allowed), str(came)) for row, allowed, came in told.get("settled", ())),
                    )
                except (ValueError, KeyError, TypeError):
                    raise AnswersError(f"{path}:{number} is no line of answers; record them again") from None
                yield recorded
    except (OSError, UnicodeDecodeError) as error:
        raise AnswersError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None


@dataclass
class Attempted:
    """What one attempt of a test asked and was answered."""

    watchdog_us: int
    hello: Hello | None = None
    calls: Calls = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


class RecordingL1(L1):
    """An L1 that remembers the answers it got, attempt by attempt."""

    attempts: list[Attempted]

    def reset(self, *, watchdog_us: int = 0) -> None:
        """Begins another attempt."""
        if self.tries == 0:
            self.attempts = []
        super().reset(watchdog_us=watchdog_us)
        self.attempts.append(Attempted(watchdog_us))

    def execute(
        self, scenario: Scenario, deadline_s: float | None = None, *, guest: Guest | None = None
    ) -> list[Record]:
        """Runs a scenario on the session; the answer record of each step."""
        now = self.attempts[-1]
        before = len(self.digests)
        try:
            now.hello = self.session.boot.hello  # before, for a target that is lost has no boot
            records = super().execute(scenario, deadline_s, guest=guest)
        except TargetLost as lost:
            now.calls.append(Lost(lost.verdict, lost.what, lost.reason))
            now.asked.append("".join(self.digests[before:]))
            raise
        now.calls.append(records)
        now.asked.append("".join(self.digests[before:]))
        return records

    def keep(self, path: Path, result: Result, standing: int, settled: Sequence[tuple[str, str, str]] = ()) -> None:
        """Appends the test with the answers of the attempt on which its verdict stands (their count begins at 1)."""
        if result.verdict not in ("PASS", "SKIP", "FAIL", "CRASH", "HANG"):
            return
        attempt = self.attempts[standing - 1]
        there = attempt.hello is not None and result.verdict != "SKIP"
        recorded = Recorded(
            result.test,
            result.target,
            result.verdict,
            result.news,
            pack(attempt.hello, attempt.calls) if there and attempt.hello is not None else "",
            result.reason,
            tuple(result.clauses),
            tuple(attempt.asked) if there else (),
            attempt.watchdog_us,
            result.fresh is not None and result.fresh.state == AFTER_OTHERS,
            tuple(settled),
        )
        # One write with O_APPEND: workers share the file, and a line is never cut by another's.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, recorded.line().encode())
        finally:
            os.close(handle)
