"""Keeps the answers that a target gave to each test, and gives them again without a target.

`pytest --nsvm-answers FILE` writes one line a test; `harness.sensitivity` replays them with one answer altered at a
time, to show that each test can fail. A replayed answer comes in the order of the calls, whatever is asked: a test that
asks for more than was recorded is stopped. A call over which the target was lost has its place among them.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from harness.guest.guest import Guest
from harness.guest.l1 import L1, Tally
from harness.judge import universal
from harness.judge.exit import Exit
from harness.link.hello import Hello
from harness.link.link import Link
from harness.link.session import Boot, Session, TargetLost
from harness.record import NEWS, VERDICTS, News, Verdict
from harness.record.source import Source
from harness.scenario.answer_bytes import encode_record
from harness.scenario.asm import Assembler
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


class OutOfAnswers(BaseException):
    """The test asks for more than was recorded. Not an Exception, so that no test catches it."""


@dataclass(frozen=True)
class Recorded:
    """One test's answers on one target. A test that was skipped has none."""

    test: str
    target: str
    verdict: Verdict
    news: News
    packed: str = ""

    def line(self) -> str:
        """The line of the file."""
        told = {"test": self.test, "target": self.target, "verdict": self.verdict, "news": self.news}
        return json.dumps(told | {"answers": self.packed}) + "\n"

    def unpack(self) -> tuple[Hello, Calls]:
        """The hello and the answer records of each call. Raises AnswersError."""
        try:
            stored = json.loads(zlib.decompress(base64.b64decode(self.packed)))
            hello = Hello.parse(base64.b64decode(stored["hello"]))
            return hello, [
                Lost(**call) if isinstance(call, dict) else split_records(base64.b64decode(call))
                for call in stored["calls"]
            ]
        except Exception as error:  # whatever is wrong with a damaged line, it is the line that is wrong
            raise AnswersError(f"the answers of {self.test} cannot be read: {error}") from error


def pack(hello: Hello, calls: Calls) -> str:
    """A test's answers as text."""
    encoded = [
        asdict(call) if isinstance(call, Lost) else base64.b64encode(b"".join(map(encode_record, call))).decode()
        for call in calls
    ]
    stored = json.dumps({"hello": base64.b64encode(hello.pack()).decode(), "calls": encoded})
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
                    )
                except (ValueError, KeyError, TypeError):
                    raise AnswersError(f"{path}:{number} is no line of answers; record them again") from None
                yield recorded
    except (OSError, UnicodeDecodeError) as error:
        raise AnswersError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None


class RecordingL1(L1):
    """An L1 that remembers the answers it got since it was reset."""

    def reset(self, *, watchdog_us: int = 0) -> None:
        """Forgets what this test did so far."""
        super().reset(watchdog_us=watchdog_us)
        self.calls: Calls = []
        self.hello: Hello | None = None

    def execute(
        self, scenario: Scenario, deadline_s: float | None = None, *, guest: Guest | None = None
    ) -> list[Record]:
        """Runs a scenario on the session; the answer record of each step."""
        try:
            self.hello = self.session.boot.hello  # before, for a target that is lost has no boot
            records = super().execute(scenario, deadline_s, guest=guest)
        except TargetLost as lost:
            self.calls.append(Lost(lost.verdict, lost.what, lost.reason))
            raise
        self.calls.append(records)
        return records

    def keep(self, path: Path, test: str, target: str, verdict: Verdict, news: News) -> None:
        """Appends the test, if its verdict is one to build on: passed, skipped, or a deviation that is known."""
        if verdict not in ("PASS", "SKIP") and news != "known":
            return
        packed = pack(self.hello, self.calls) if self.hello is not None and verdict != "SKIP" else ""
        line = Recorded(test, target, verdict, news, packed).line().encode()
        # One write with O_APPEND: workers share the file, and a line is never cut by another's.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


class ReplaySession(Session):
    """Gives recorded answers in order. There is no target behind it."""

    def __init__(self, hello: Hello, calls: Calls, *, lost_at: int | None = None) -> None:
        self._replayed = Boot(1, cast(Link, None), hello)
        self._calls = calls
        self._lost_at = lost_at  # the call at which the target is pretended to be lost
        self.scenarios: list[Scenario] = []  # what was asked
        self.boots = 1

    @property
    def asked(self) -> int:
        """How many answers were asked for."""
        return len(self.scenarios)

    @property
    def deadline_s(self) -> float:
        """Nothing is waited for."""
        return 1.0

    @property
    def boot(self) -> Boot:
        """The one boot there is."""
        return self._replayed

    @property
    def running(self) -> Boot | None:
        """The one boot there is."""
        return self._replayed

    def run(self, scenario: Scenario, deadline_s: float | None = None) -> list[Record]:
        """The next recorded answer. Raises TargetLost where the target was lost, OutOfAnswers behind the last one."""
        at = self.asked
        self.scenarios.append(scenario)
        if at == self._lost_at:
            raise TargetLost("CRASH", "crash", "the target ended (a lie)")
        if at >= len(self._calls):
            raise OutOfAnswers
        call = self._calls[at]
        if isinstance(call, Lost):
            raise TargetLost(call.verdict, call.what, call.reason)
        return call

    def restart(self, why: str, *, discard: bool = False) -> None:
        """Nothing is there to be restarted."""

    def close(self) -> None:
        """Nothing is there to be ended."""


Seen = Callable[[int, Exit], None]


class ReplayL1(L1):
    """An L1 on recorded answers. `on_exit(call, exit)` hears of each exit; `tallies` says which checks were asked."""

    def __init__(self, session: ReplaySession, assembler: Assembler, *, on_exit: Seen | None = None) -> None:
        self._replay = session
        self._on_exit = on_exit
        self.tallies: dict[str, Tally] = {}
        super().__init__(session, assembler, self.tallies)

    def execute(
        self, scenario: Scenario, deadline_s: float | None = None, *, guest: Guest | None = None
    ) -> list[Record]:
        """The next answer; digests are for reports, and there is none here."""
        return self._replay.run(scenario, deadline_s)

    def judge(self, exit: Exit, guest: Guest, *, gif_known: bool, probes: bool = True) -> None:
        """Asks the universal checks as a real run does."""
        self.last_exit = exit
        if self._on_exit is not None:
            self._on_exit(self._replay.asked - 1, exit)
        super().judge(exit, guest, gif_known=gif_known, probes=probes)


UNIVERSAL_CHECKS = tuple(universal.CHECKS)
