"""Puts one recorded test on trial: honest answers first, then one lie at a time, and sees what the test makes of it."""

from __future__ import annotations

import dis
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from harness.asm import Assembler
from harness.asserts import Assert
from harness.exit import Exit
from harness.expect import take_mismatches
from harness.hello import Hello
from harness.lies import UNIVERSAL_LIES, Lie, lies_of, raised_by
from harness.replay import AnswersError, Calls, OutOfAnswers, Recorded, ReplayL1, ReplaySession
from harness.session import TargetLost

REPLAY_MAX_S = 5.0  # a test that loops for ever under a lie
TELLINGS_MAX = 8  # lies of one name that a test is told for the table, for some tests have hundreds of exits

# How a test fared, from the best to the worst. Only a test that "notices nothing" is a defect.
NOTICES = "notices"  # an assert of the test's own function fails under a lie
BY_HELPER = "by helper"  # only an assert of a function that it calls does
SEEN = "seen failing"  # the target itself deviates, and the recorded run shows the test failing
SURVIVES = "survives"  # it states that the machine survives: it notices that the target is lost, and nothing else
NOTHING = "notices nothing"
UNREPLAYABLE = "not replayable"
SKIPPED = "skipped"
RANKS = (NOTICES, BY_HELPER, SEEN, SURVIVES, NOTHING, UNREPLAYABLE, SKIPPED)

Place = tuple[str, int]  # file and line


class TooLong(BaseException):
    """A replay did not end."""


@dataclass(frozen=True)
class Outcome:
    """What came of one replay. `place` is where an assertion failed."""

    what: str  # passes, asserts, skips, lost, broke
    reason: str = ""
    place: Place | None = None
    own: bool = False  # the assertion stands in the test's function itself
    universal: frozenset[str] = frozenset()


@dataclass
class Finding:
    """What the trial of one test has shown."""

    test: str
    target: str
    state: str
    reason: str = ""
    replays: int = 0
    broke: int = 0
    lied: set[str] = field(default_factory=set)  # what was altered
    noticed: set[str] = field(default_factory=set)  # of these, what the test noticed
    by_universal: set[str] = field(default_factory=set)  # and what only or also a universal check noticed
    universal: dict[str, int] = field(default_factory=dict)  # how many alterations each check noticed
    places: set[Place] = field(default_factory=set)  # asserts that were seen failing
    reached: Assert | None = None  # the assert asked for, if the honest replay comes by it


class Trial:
    """One test's function with the answers it once got."""

    def __init__(self, item: pytest.Function, recorded: Recorded, assembler: Assembler, root: Path) -> None:
        self._item = item
        self._recorded = recorded
        self._assembler = assembler
        self._suites = str(root / "suites")
        self._root = root
        self._exits: dict[int, Exit] = {}
        self._raised: list[int] = []  # vectors of the interrupts that the test raises in L1
        self._honest = Outcome("passes")
        function = getattr(item.obj, "__func__", item.obj)
        self._code = function.__code__
        self._best = NOTICES if _asserts(self._code) else BY_HELPER
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        self._arguments = {name: parameters[name] for name in item._fixtureinfo.argnames if name in parameters}
        self._strange = [n for n in item._fixtureinfo.argnames if n not in parameters and n != "l1"]

    def run(
        self,
        *,
        survive: bool,
        number: int = 0,
        full: bool = False,
        until: Assert | None = None,
        if_reached: bool = False,
    ) -> Finding:
        """Stops at the first lie that the test notices; with `full` it tells all, with `until` it goes on to a place.

        With `if_reached` nothing is told to a test whose honest replay does not come by that place. `survive` says that
        the test's clause asks for no more than that the machine goes on. `number` counts the tests, so that a quick run
        tells each of them another of the universal checks' lies.
        """
        finding = Finding(self._recorded.test, self._recorded.target, SKIPPED, self._recorded.news)
        if self._recorded.verdict == "SKIP":
            return finding
        if self._recorded.news == "known" and not self._recorded.packed:
            finding.state, finding.reason = SEEN, f"{self._recorded.verdict} before any answer"
            return finding
        try:
            hello, calls = self._recorded.unpack()
        except AnswersError as error:
            finding.state, finding.reason = UNREPLAYABLE, str(error)
            return finding
        # Where the target deviates, lies still can show the asserts before the one that fails.
        if not self._be_honest(finding, hello, calls) and not (until is not None and finding.state == SEEN):
            return finding
        if until is not None and self._reaches(until, hello, calls):
            finding.reached = until
        elif if_reached:
            return finding
        finding.state = NOTHING
        told: Counter[str] = Counter()
        for lie in lies_of(calls, self._exits, self._raised):
            if lie.fine and until is None and not full and finding.state != NOTHING:
                break
            told[lie.what] += 1
            if full and (told[lie.what] > TELLINGS_MAX or lie.what in finding.noticed & finding.by_universal):
                continue
            outcome = self._tell(finding, hello, calls, lie)
            if outcome.what == "asserts" and (outcome.own or finding.state == NOTHING):
                finding.state = NOTICES if outcome.own else BY_HELPER
            if until is not None and outcome.place and until.holds(*outcome.place):
                break
            if until is None and not full and finding.state == self._best:
                break
        if finding.state == NOTHING and survive and self._notices_loss(finding, hello, calls):
            finding.state = SURVIVES
        if not full and until is None:
            self._ask_universal_checks(finding, hello, calls, UNIVERSAL_LIES[number % len(UNIVERSAL_LIES)])
        return finding

    def _be_honest(self, finding: Finding, hello: Hello, calls: Calls) -> bool:
        """The honest replay must end as the recorded run did."""
        if self._strange:
            finding.state, finding.reason = UNREPLAYABLE, f"it uses the fixture {', '.join(self._strange)}"
            return False
        honest = self._honest = self._play(hello, calls, on_exit=self._exits.__setitem__)
        finding.replays += 1
        known = self._recorded.news == "known"
        if honest.what == "passes":
            return True
        if known and honest.what in ("asserts", "broke"):  # a target that was lost gave no further answers
            finding.state, finding.reason = SEEN, honest.reason
            if honest.place:
                finding.places.add(honest.place)
            return False
        finding.state = UNREPLAYABLE
        finding.reason = f"with the recorded answers it {honest.what}: {honest.reason}"
        return False

    def _reaches(self, wanted: Assert, hello: Hello, calls: Calls) -> bool:
        path = str(self._root / wanted.path)
        reached = False

        def in_file(frame: FrameType, what: str, _argument: Any) -> Any:
            nonlocal reached
            reached |= what == "line" and wanted.line <= frame.f_lineno <= wanted.end
            return in_file

        before = sys.gettrace()
        sys.settrace(lambda frame, _what, _argument: in_file if frame.f_code.co_filename == path else None)
        try:
            self._play(hello, calls)
        finally:
            sys.settrace(before)
        return reached

    def _tell(self, finding: Finding, hello: Hello, calls: Calls, lie: Lie) -> Outcome:
        told = [*calls[: lie.call], lie.records, *calls[lie.call + 1 :]]
        outcome = self._play(hello, told)
        finding.replays += 1
        finding.broke += outcome.what == "broke"
        finding.lied.add(lie.what)
        if outcome.what == "asserts":
            finding.noticed.add(lie.what)
        if outcome.place:
            finding.places.add(outcome.place)
        fired = outcome.universal - self._honest.universal
        if fired:
            finding.by_universal.add(lie.what)
        for clause in fired:
            finding.universal[clause] = finding.universal.get(clause, 0) + 1
        return outcome

    def _ask_universal_checks(self, finding: Finding, hello: Hello, calls: Calls, what: str) -> None:
        named = (lie for lie in lies_of(calls, self._exits) if lie.what == what)
        for lie in islice(named, TELLINGS_MAX):
            if self._tell(finding, hello, calls, lie).universal - self._honest.universal:
                return

    def _notices_loss(self, finding: Finding, hello: Hello, calls: Calls) -> bool:
        finding.lied.add("target lost")
        finding.replays += 1
        return self._play(hello, calls, lost_at=self._asked - 1).what == "lost"

    def _play(
        self,
        hello: Hello,
        calls: Calls,
        *,
        on_exit: Callable[[int, Exit], None] | None = None,
        lost_at: int | None = None,
    ) -> Outcome:
        session = ReplaySession(hello, calls, lost_at=lost_at)
        l1 = ReplayL1(session, self._assembler, on_exit=on_exit)
        take_mismatches()
        what, reason, place, own = "passes", "", None, False
        try:
            with _bounded(REPLAY_MAX_S):
                self._item.obj(**({"l1": l1} if "l1" in self._item._fixtureinfo.argnames else {}), **self._arguments)
        except AssertionError as error:
            place, own = self._where(error)
            what = "asserts" if place else "broke"
            reason = (str(error).strip().splitlines() or ["assert"])[0][:200]
        except TargetLost as error:
            what, reason = "lost", error.reason
        except OutOfAnswers:
            what, reason = "broke", "it asks for more than was recorded"
        except TooLong:
            what, reason = "broke", f"it did not end within {REPLAY_MAX_S:.0f} s"
        except pytest.skip.Exception as skipped:
            what, reason = "skips", str(skipped.msg)
        except Exception as error:
            what, reason = "broke", f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if on_exit is not None:
            self._asked = session.asked
            self._raised = raised_by(session.scenarios)
        return Outcome(what, reason, place, own, frozenset(l1.universal))

    def _where(self, error: AssertionError) -> tuple[Place | None, bool]:
        """The place of the failed assertion, if it stands in the suites, and whether in the test itself."""
        trace: Any = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        code = trace.tb_frame.f_code if trace is not None else None
        if code is None or not code.co_filename.startswith(self._suites):
            return None, False
        path = str(Path(code.co_filename).relative_to(self._root))
        return (path, trace.tb_lineno), code is self._code


def _asserts(code: CodeType) -> bool:
    """Whether there is an assert in it; pytest rewrites those of the suites."""
    return "AssertionError" in code.co_names or any(op.opname == "LOAD_ASSERTION_ERROR" for op in dis.Bytecode(code))


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
