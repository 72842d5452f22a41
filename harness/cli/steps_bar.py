"""Shows how far a long piece of work is: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from harness.cli.console import say

LINE_EVERY_S = 15.0


class StepsBar:
    """A bar that appears with the first step and goes with the block."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: object | None = None
        self._said_at = time.monotonic()

    def __enter__(self) -> StepsBar:
        return self

    def update(self, done: int, total: int) -> None:
        """So many steps of so many are done."""
        if not sys.stderr.isatty():
            if time.monotonic() - self._said_at >= LINE_EVERY_S:
                self._said_at = time.monotonic()
                say(f"{self._what}: {done} of {total}")
            return
        from rich.console import Console
        from rich.progress import Progress

        if self._bar is None:
            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.add_task(self._what, total=total)
            self._bar.start()
        assert isinstance(self._bar, Progress)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()  # type: ignore[attr-defined]
