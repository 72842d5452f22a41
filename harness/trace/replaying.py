"""Gives recorded answers without a target, in the order of the calls."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.link.hello import Hello
from harness.link.link import Link
from harness.link.session import Boot, Session, TargetLost
from harness.machine.base import Target
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Op, Record, Status, Step
from harness.trace.answers import Calls, Lost
from harness.trace.file import Entry, Trace

SETTLED = "settled.jsonl"
"""In a run folder: what comparisons with any of several values came to."""


class OutOfAnswers(BaseException):
    """The test asks for more than was recorded. Not an Exception, so that no test catches it."""


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


class TraceSession(Session):
    """Replays a trace: `test` says whose answers are meant."""

    def __init__(self, target: Target, trace: Trace) -> None:
        super().__init__(target)
        self._trace = trace
        self._entry: Entry | None = None
        self._calls: Calls = []
        self.next_call = 0

    @property
    def entry(self) -> Entry | None:
        """What was recorded of the test that runs; None where the trace does not have it."""
        return self._entry

    @property
    def deadline_s(self) -> float:
        """Nothing is waited for."""
        return 1.0

    @property
    def boot(self) -> Boot:
        """What stands for the boot of the test that runs."""
        if self._boot is None:
            self.boots = self.boots or 1
            self._boot = Boot(self.boots, cast(Link, None), self._trace.hello(self._entry))
        return self._boot

    def begin(self, test: str) -> None:
        """The next answers are this test's, from the first one on."""
        self._entry = self._trace.entries.get(test)
        self._calls = self._entry.calls() if self._entry is not None else []
        self._boot = None
        self.next_call = 0

    def answer(self, asked: str) -> list[Record]:
        """The next answer, if it is to this scenario. Raises NotOffered, and TargetLost where the target was lost."""
        entry, at = self._entry, self.next_call
        if entry is None:
            raise NotOffered("the trace does not have this test")
        if at >= len(self._calls):
            said = f": {entry.verdict} when it was recorded, {entry.reason}" if not self._calls else ""
            raise NotOffered(f"the trace has no answer to this{said}")
        if entry.asked[at] != asked:
            raise NotOffered("the test asks otherwise than when the trace was recorded")
        self.next_call += 1
        call = self._calls[at]
        if isinstance(call, Lost):
            self._boot = None
            raise TargetLost(call.verdict, call.what, call.reason)
        return call

    def run(self, scenario: Scenario, deadline_s: float | None = None) -> list[Record]:
        """The next answer. What was done before a test's own steps has none in a trace, and gets an empty one."""
        records = self.answer(scenario.digest())
        before = sum(isinstance(item, Step) for item in scenario.items) - len(records)
        return [Record(Op.CODE, Status.OK, 0, b"")] * before + records


class TraceL1(L1):
    """A test's hold on a trace."""

    def reset(self, *, watchdog_us: int = 0) -> None:
        """As new, at the test's first answer."""
        session = cast(TraceSession, self.session)
        if self.tries:
            session.begin(session.test)
        entry = session.entry
        super().reset(watchdog_us=entry.watchdog_us if entry is not None else watchdog_us)
        self.after_others = entry is not None and entry.after_others

    def keep(self, path: Path, test: str) -> None:
        """Appends what the test settled, if anything."""
        if not self.settled:
            return
        line = json.dumps({"test": test, "settled": self.settled}).encode() + b"\n"
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
