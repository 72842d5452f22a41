"""The process that owns a run: it begins and ends the record, and notes what no worker can."""

from __future__ import annotations

import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from harness.home import ROOT
from harness.judge.baseline import Baseline
from harness.judge.clauses import load_clauses
from harness.judge.offers import Offers
from harness.record import ClauseInfo, End, HostInfo, Interrupted, NsvmInfo, Result, RunStart, Scope, Writer, load
from harness.run.collection import result_of
from harness.run.ending import expected_otherwise, mended_everywhere, offered_otherwise
from harness.run.options import TYPED
from harness.run.refused import USAGE
from harness.run.scope import chosen_by, is_whole, stops_early
from harness.run.worker import Settings
from harness.summary import Summary, summarise
from harness.version import VERSION

RECORDED = "nsvm-recorded"
"""The property of a test's report that a worker has written its result."""
CTRL_C = "Ctrl-C"
EXIT_NEW = 1
EXIT_HARNESS = 3
SIGNALLED = 128


class Control:
    """Begins and ends the record, and notes tests whose worker died."""

    def __init__(self, config: pytest.Config, settings: Settings, baseline: Baseline, offers: Offers | None) -> None:
        self._option = config.option
        self._settings = settings
        self._baseline = baseline
        self._offers = offers
        self._policy = settings.policy_of()
        self._whole = is_whole(config, settings)
        self._chosen_by = chosen_by(config)
        self._writer = Writer(settings.out / "run.jsonl")
        self._started = time.monotonic()
        self._expected: set[str] = set()
        self._not_collected: set[str] = set()
        self._usage = ""
        self._signal = 0
        self._summary: Summary | None = None
        self.interrupted = False
        self.path = settings.out / "run.jsonl"
        self._writer.write(
            RunStart(
                run_id=uuid.uuid4().hex[:12],
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                argv=shlex.split(os.environ.get(TYPED, "")) or sys.argv,
                nsvm=NsvmInfo(version=VERSION, **_commit()),
                python=platform.python_version(),
                host=HostInfo(os=platform.platform(), cpu=_cpu(), name=platform.node()),
                shuffle=settings.shuffle,
            )
        )
        for stated in load_clauses(config.rootpath / "suites").values():
            self._writer.write(
                ClauseInfo(
                    id=stated.id,
                    bit=stated.bit,
                    statement=stated.statement,
                    alias=", ".join(stated.alias),
                    apm=stated.apm,
                    class_=stated.class_,
                    condition=stated.condition,
                    trust=stated.trust,
                    hardware=stated.hardware,
                    note=stated.note,
                )
            )
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._terminated)
        config.pluginmanager.register(self, "nsvm-control")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells an xdist worker where the record is, and what chose its tests."""
        node.workerinput["nsvm_out"] = str(self._settings.out)
        node.workerinput["nsvm_chosen_by"] = self._chosen_by

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hears from an xdist worker what pytest refused there."""
        self._usage = self._usage or getattr(node, "workeroutput", {}).get(USAGE, "")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learns what is to be run, where it is run by this process."""
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Learns it from an xdist worker."""
        self._expect(ids)

    def _expect(self, tests: Iterable[str]) -> None:
        self._expected.update(test for test in tests if test.startswith("suites/"))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """What cannot be collected is a result of its own; each worker tells of it."""
        if report.failed and report.nodeid not in self._not_collected:
            self._not_collected.add(report.nodeid)
            target = self._settings.target
            self._writer.write(result_of(report, target, self._settings.rerun("").strip()))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Writes down that the run was cut short, and by what: pytest calls much a KeyboardInterrupt."""
        left = self._expected - {result.test for result in load(self.path).results}
        if self._signal:
            reason = signal.Signals(self._signal).name
        elif excinfo.type is KeyboardInterrupt:
            reason = CTRL_C
        elif stops_early(self._option) and _stopped_by_failures(excinfo):
            return
        else:
            reason = str(getattr(excinfo.value, "msg", "") or excinfo.value)
            reason += f"; {len(left)} of {len(self._expected)} tests were not run" if left else ""
        self.interrupted = True
        if not load(self.path).interrupted:  # `nsvm run` wrote it before it passed the signal on
            self._writer.write(Interrupted(reason=reason))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A report of a suite's test that no worker recorded means that the worker died over it."""
        # xdist reports a test whose worker died as failed, with a phase of its own ("???").
        recorded = any(name == RECORDED for name, _ in report.user_properties)
        if recorded or report.passed or report.when == "teardown" or not report.nodeid.startswith("suites/"):
            return
        reason = last_line(str(report.longrepr or "")) or "the worker died"
        self._writer.write(
            Result(test=report.nodeid, target=self._settings.target, verdict="ERROR", reason=reason[:400])
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Ends the record once the workers have ended, and gives pytest's exit status what pytest cannot know."""
        status = self.finish()
        if self._usage:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
            print(f"ERROR: {self._usage}", file=sys.stderr, flush=True)
        elif self._signal:
            session.exitstatus = SIGNALLED + self._signal
        elif status == EXIT_NEW and not self.interrupted and session.exitstatus in (0, pytest.ExitCode.INTERRUPTED):
            session.exitstatus = status

    def finish(self) -> int:
        """Ends the record and gives the run's exit status; may be called again."""
        if self._summary is not None:
            return self._summary.exit_status
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        run = load(self.path)
        self.interrupted = self.interrupted or bool(run.interrupted)
        # However it was ended, by a second Ctrl-C too: a run that left tests out is one that was cut short.
        left = self._expected - {result.test for result in run.results}
        if self._usage and not self.interrupted:
            self.interrupted = True
            self._writer.write(Interrupted(reason=f"pytest refused its arguments: {self._usage}"))
        elif left and not self.interrupted:
            if by := stops_early(self._option):
                target = self._settings.target
                self._writer.write(replace(run.scopes.get(target, Scope(target=target)), ended_by=by))
            else:
                self.interrupted = True
                self._writer.write(Interrupted(reason=f"{len(left)} of {len(self._expected)} tests were not run"))
        if self._offers is not None:
            for record in offered_otherwise(self._offers, run, self._settings.target, self._settings):
                self._writer.write(record)
        for record in expected_otherwise(self._settings.expect, self._policy, run, self._settings.target):
            self._writer.write(record)
        if self._whole and not self.interrupted and not self._not_collected:
            for result in mended_everywhere(self._baseline, run, self._settings.target):
                self._writer.write(result)
        run = load(self.path)
        summary = self._summary = summarise(run, ending=True)
        self._writer.write(
            End(
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
                duration_s=round(time.monotonic() - self._started, 3),
                exit_status=_status_of(run.interrupted) if self.interrupted else summary.exit_status,
                counts=summary.counts,
                new=summary.new,
                known=summary.known,
                mended=summary.mended,
            )
        )
        self._writer.close()
        return summary.exit_status

    def _terminated(self, number: int, _frame: FrameType | None) -> None:
        """Ends the run as Ctrl-C does, so that no machine stays behind."""
        self._signal = number
        raise KeyboardInterrupt


def last_line(text: str) -> str:
    """The last line of a text that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _stopped_by_failures(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether it is what pytest and xdist raise after as many failures as `-x` and its kin allow."""
    return str(excinfo.value).startswith(("stopping after", "Test failed, continuing from"))


def _status_of(interrupted: Sequence[Interrupted]) -> int:
    """The exit status of a run that was cut short."""
    reason = interrupted[0].reason if interrupted else ""
    number = {CTRL_C: signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}.get(reason)
    return EXIT_HARNESS if number is None else SIGNALLED + (number if number == signal.SIGINT else signal.SIGTERM)


def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
