"""Puts one recorded test on trial: honest answers first, then one lie at a time, and sees what the test makes of it."""

from __future__ import annotations

import dis
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from harness.judge.exit import Exit
from harness.link.hello import Hello
from harness.link.session import TargetLost
from harness.scenario.asm import Assembler
from harness.scenario.scenario import Scenario
from harness.sensitivity.asserts import Assert, Lines
from harness.sensitivity.lies import Lie, lies_of, raised_by
from harness.sensitivity.replay import ReplayL1
from harness.trace.answers import AnswersError, Calls, Recorded
from harness.trace.replaying import OutOfAnswers, ReplaySession

REPLAY_MAX_S = 5.0  # a test that loops for ever under a lie
# Lies of one name that are told to a test which has shown already that it notices: some have hundreds of exits.
TELLINGS_MAX = 8
DIED = ("CRASH", "HANG")  # verdicts of a target that gave no answer

# How a test fared, from the best to the worst. One that "notices nothing" or is "not replayable" is a defect.
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
class Replayed:
    """What came of one replay. `place` is where an assertion failed."""

    what: str  # passes, asserts, skips, lost, broke
    reason: str = ""
    place: Place | None = None
    own: bool = False  # the assertion stands in the test's function itself
    universal: frozenset[str] = frozenset()  # the universal checks that failed
    asked: frozenset[str] = frozenset()  # those that had something to judge


@dataclass
class TrialResult:
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
    reached: set[Assert] = field(default_factory=set)  # asserts that the honest replay comes by
    asked: frozenset[str] = frozenset()  # universal checks that have something to judge in the honest replay


class Trial:
    """One test's function with the answers it once got. `lines` says where asserts are."""

    def __init__(
        self, item: pytest.Function, recorded: Recorded, assembler: Assembler, root: Path, lines: Lines
    ) -> None:
        self._item = item
        self._recorded = recorded
        self._assembler = assembler
        self._suites = str(root / "suites")
        self._root = root
        self._lines = lines
        self._exits: dict[int, Exit] = {}
        self._scenarios: list[Scenario] = []  # what the test asks for
        self._honest = Replayed("passes")
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
        ask: Sequence[str] = (),
        full: bool = False,
        until: Assert | None = None,
    ) -> TrialResult:
        """Stops at the first lie that the test notices; with `full` it tells all, with `until` it goes on to a place.

        `survive` says that the test's clause asks for no more than that the machine goes on. `ask` names lies that are
        told in any case, for the universal checks.
        """
        finding = TrialResult(self._recorded.test, self._recorded.target, SKIPPED)
        if self._recorded.verdict == "SKIP":
            return finding
        if self._recorded.news == "known" and self._recorded.verdict in DIED and not self._recorded.packed:
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
        finding.asked = self._honest.asked
        calls = calls[: len(self._scenarios)]  # what came behind these was no answer to the test
        finding.state = NOTHING
        told: Counter[str] = Counter()
        for lie in lies_of(calls, self._exits, raised_by(self._scenarios), self._scenarios):
            enough = finding.state == self._best or (lie.fine and finding.state != NOTHING)
            if enough and until is None and not full:
                break
            told[lie.what] += 1
            known = told[lie.what] > TELLINGS_MAX or lie.what in finding.noticed & finding.by_universal
            if enough and known and until is None:
                continue
            outcome = self._tell(finding, hello, calls, lie)
            if outcome.what == "asserts" and (outcome.own or finding.state == NOTHING):
                finding.state = NOTICES if outcome.own else BY_HELPER
            if until is not None and outcome.place and until.holds(*outcome.place):
                break
        if finding.state == NOTHING and survive and self._notices_loss(finding, hello, calls):
            finding.state = SURVIVES
        for what in ask:
            self._ask_universal_checks(finding, hello, calls, what)
        return finding

    def _be_honest(self, finding: TrialResult, hello: Hello, calls: Calls) -> bool:
        """The honest replay must end as the recorded run did."""
        if self._strange:
            finding.state, finding.reason = UNREPLAYABLE, f"it uses the fixture {', '.join(self._strange)}"
            return False
        honest = self._honest = self._play(hello, calls, reached=finding.reached)
        finding.replays += 1
        if honest.what == "passes":
            return True
        died = honest.what == "lost" and self._recorded.verdict in DIED
        if self._recorded.news == "known" and (honest.what == "asserts" or died):
            finding.state, finding.reason = SEEN, honest.reason
            if honest.place:
                finding.places.add(honest.place)
            return False
        finding.state = UNREPLAYABLE
        finding.reason = f"with the recorded answers it {honest.what}: {honest.reason}"
        return False

    @contextmanager
    def _noting(self, reached: set[Assert]) -> Iterator[None]:
        """Notes the asserts that are come by meanwhile, but for one over which the target is lost."""

        def enter(frame: FrameType, _what: str, _argument: Any) -> Any:
            lines = self._lines.get(frame.f_code.co_filename)
            now: Assert | None = None

            def step(frame: FrameType, what: str, argument: Any) -> Any:
                nonlocal now
                if what == "exception":
                    now = None if issubclass(argument[0], TargetLost) else now
                    return step
                before, now = now, lines.get(frame.f_lineno) if lines and what == "line" else None
                if before is not None and before is not now:
                    reached.add(before)
                return step

            return step if lines else None

        before = sys.gettrace()
        sys.settrace(enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _tell(self, finding: TrialResult, hello: Hello, calls: Calls, lie: Lie) -> Replayed:
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

    def _ask_universal_checks(self, finding: TrialResult, hello: Hello, calls: Calls, what: str) -> None:
        named = (lie for lie in lies_of(calls, self._exits) if lie.what == what)
        for lie in islice(named, TELLINGS_MAX):
            if self._tell(finding, hello, calls, lie).universal - self._honest.universal:
                return

    def _notices_loss(self, finding: TrialResult, hello: Hello, calls: Calls) -> bool:
        finding.lied.add("target lost")
        finding.replays += 1
        return self._play(hello, calls, lost_at=len(self._scenarios) - 1).what == "lost"

    def _play(
        self, hello: Hello, calls: Calls, *, reached: set[Assert] | None = None, lost_at: int | None = None
    ) -> Replayed:
        """One replay; `reached` is given to the honest one, from which is learnt what the test does."""
        session = ReplaySession(hello, calls, lost_at=lost_at)
        l1 = ReplayL1(session, self._assembler, on_exit=None if reached is None else self._exits.__setitem__)
        what, reason, place, own = "passes", "", None, False
        try:
            with _bounded(REPLAY_MAX_S), nullcontext() if reached is None else self._noting(reached):
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
            what, reason = "broke", f"it did not end within {REPLAY_MAX_S:g} s"
        except pytest.skip.Exception as skipped:
            what, reason = "skips", str(skipped.msg)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pytest.fail() and sys.exit() raise no Exception
            what, reason = "broke", f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if reached is not None:
            self._scenarios = session.scenarios
        return Replayed(what, reason, place, own, frozenset(l1.universal), frozenset(l1.tallies))

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
