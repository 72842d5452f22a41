"""Ctrl-C and the other ways of asking a run to end."""

from __future__ import annotations

import signal
from types import FrameType


class Signals:
    """While a run lasts, Ctrl-C and SIGTERM are noted, and passed on by who waits for pytest."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.times = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the run is to outlive its terminal
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or number
        self.times += 1
