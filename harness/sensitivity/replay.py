"""A test's hold on recorded answers, for trials: it says which exits and which universal checks there were."""

from __future__ import annotations

from collections.abc import Callable

from harness.guest.guest import Guest
from harness.guest.l1 import L1, Tally
from harness.judge import universal
from harness.judge.exit import Exit
from harness.scenario.asm import Assembler
from harness.scenario.scenario import Scenario
from harness.scenario.steps import Record
from harness.trace.replaying import ReplaySession

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
