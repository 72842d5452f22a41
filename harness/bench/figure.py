"""What a measure is given and what it gives."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.machine.base import Target, TargetOptions, release


class NotMeasured(Exception):
    """A figure is not to be had on this target, or nobody asked for it; the text says why."""


class Failed(Exception):
    """What was to be measured did not work; the text says how."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number. `goal` is what is to be reached, at most or at least as `more_is_better` says; None where there
    is none.
    """

    name: str
    value: float | None
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None where there is no goal or no number."""
        if self.goal is None or self.value is None:
            return None
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON-safe data."""
        return {**asdict(self), "reached": self.reached}


@dataclass(frozen=True)
class Bench:
    """What a measure may use."""

    target: str
    make_target: Callable[..., Target]
    """A target of that name that is not started; takes fields of TargetOptions to replace."""
    make_options: Callable[[], TargetOptions]
    """Options for a target made otherwise."""
    workdir: Path
    root: Path
    rounds: int = 5
    suites: Sequence[str] = ("suites",)
    slow: bool = False
    """Also what takes many minutes."""
    programs: Sequence[str] = ()
    """--qemu and --bochs for pytest."""
    against: Path | None = None
    """Another checkout of nsvm."""
    stock: Path | None = None
    """A QEMU without our hooks, of the version that the reference machine is made of."""

    @contextmanager
    def target_for_now(self, **more: object) -> Iterator[Target]:
        """A target that gives back all it holds: a host's lease would shut out the next measure, an outer machine take
        its CPU time.
        """
        target = self.make_target(**more)
        try:
            yield target
        finally:
            release(target)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float], unit: str) -> str:
    """From the least to the most, for a figure's detail."""
    return f"{len(values)} times, {min(values):.3g} to {max(values):.3g} {unit}"
