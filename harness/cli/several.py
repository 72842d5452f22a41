"""Several targets in one run: those on different machines at once, those on this one after the other. A target that
cannot be run costs itself only: it is MISS in the record, and named as soon as that is known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from harness.cli.console import say
from harness.cli.pytest_process import Ended
from harness.cli.signals import Signals
from harness.machine.base import TargetError
from harness.record import FILE_NAME, End, Event, Result, RunStart, Writer, load

HERE = ""
"""The lane of targets that are processes of this machine."""


def lanes(names: Iterable[str]) -> list[list[str]]:
    """The targets by machine: those of a lane are run one after the other, the lanes at once."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_machine(name), []).append(name)
    return list(found.values())


def _machine(name: str) -> str:
    if name.startswith("metal:"):
        return name
    if not name.startswith(("host:", "ssh://")):
        return HERE
    from harness.targets.reach import spec_of

    try:
        spec = spec_of(name)
    except TargetError:
        return name
    return f"{spec.address or spec.name}:{spec.port or 22}"


def carry_out(
    names: Sequence[str],
    run: Callable[[str, bool], Ended],
    signals: Signals,
    why_not: Callable[[Ended], str],
    *,
    fail_fast: bool,
) -> list[Ended]:
    """Runs each target (`run(name, whether others run meanwhile)`) and gives how they ended, in the order of `names`.

    `why_not` says in a line why a target was not run at all, or "". With `fail_fast` none begins after such a one.
    """
    apart = lanes(names)
    ended: dict[str, Ended] = {}
    stop = threading.Event()

    def go(lane: Sequence[str]) -> None:
        for name in lane:
            if signals.received or stop.is_set():
                return
            started = datetime.now(UTC)
            one = run(name, len(apart) > 1)
            ended[name] = one
            why = "" if signals.received else why_not(one)
            if why and fail_fast:
                stop.set()
            elif why and len(names) > 1:
                say(f"{name}: MISS: {why}; the other targets go on")
                _note_miss(one, why, started)

    threads = [threading.Thread(target=go, args=(lane,), daemon=True) for lane in apart]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.1)  # the main thread is the one that hears signals
    return [ended[name] for name in names if name in ended]


def _note_miss(ended: Ended, why: str, started: datetime) -> None:
    """A record for a target that has none, so that the run's report names it."""
    path: Path = ended.folder / FILE_NAME
    with suppress(OSError):
        if path.exists() and (run := load(path)).results:
            return
        fresh = not path.exists() or run.start is None
        with Writer(path) as writer:
            if fresh:
                writer.write(RunStart(run_id=ended.folder.name, started=started.isoformat(timespec="seconds")))
            writer.write(Event(target=ended.target, what="missing", detail=why))
            writer.write(Result(test="suites", target=ended.target, verdict="MISS", reason=why))
            now = datetime.now(UTC)
            seconds = round((now - started).total_seconds(), 3)
            finished = now.isoformat(timespec="seconds")
            writer.write(End(finished=finished, duration_s=seconds, exit_status=3, counts={"MISS": 1}))
