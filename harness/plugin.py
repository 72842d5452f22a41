"""The pytest plugin: options, markers, the `l1` fixture, verdicts instead of mere failures, and the run record."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness import feature_mask, rehearsal, replay
from harness.asm import AssemblyError
from harness.attempts import Attempts
from harness.baseline import Baseline, BaselineError
from harness.clauses import ClauseError, load_clauses
from harness.l1 import L1
from harness.record import (
    LOST_VERDICTS,
    BaselineRef,
    Check,
    ClauseInfo,
    End,
    HostInfo,
    Interrupted,
    NsvmInfo,
    Result,
    Run,
    RunStart,
    Writer,
    load,
)
from harness.summary import OF_BASELINE, summarise
from harness.targets import built_names, file_name
from harness.targets import names as target_names
from harness.verdict import DEVIATES
from harness.version import VERSION
from harness.worker import ROOT, Settings, SetupError, Worker, check_setup, release

WORKER = pytest.StashKey[Worker]()
CONTROL = pytest.StashKey["Control"]()
RECORDED = "nsvm-recorded"

MARKERS = (
    "clause(id, ...): the clauses a test checks; the first one is the one it is about",
    "dirties(why): the test leaves state behind, so the next one gets a boot of its own",
    "fresh_boot: the test starts on a boot of its own",
    "dangerous: the test can take an L0 host down; runs only with --dangerous on targets that are real hosts",
    "deadline(seconds): how long a request of this test may take",
    "two_cpus: the test needs a second CPU",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in one group."""
    group = parser.getgroup("nsvm", "nested SVM conformance")
    named = ", ".join((*target_names(), *built_names()))
    group.addoption("--target", metavar="NAME", help=f"the target to run the suites on: {named}")
    group.addoption("--nsvm-out", metavar="DIR", help="the run folder (default: runs/TIME-TARGET)")
    group.addoption(
        "--fresh-boot",
        choices=("always", "dirty", "never"),
        default="dirty",
        help="a boot for every test, or only after one that leaves state behind; never: nor to repeat a new deviation",
    )
    group.addoption("--qemu", metavar="PATH", help="the QEMU to test")
    group.addoption("--bochs", metavar="PATH", help="the Bochs to test")
    group.addoption("--cpu", metavar="MODEL", help="the CPU model of an emulated target, e.g. max,+svm,-npt")
    group.addoption("--without", metavar="BITS", help="bits of Fn8000_000A EDX that L1 shall not see: NRIPS,VmcbClean")
    group.addoption("--baud", type=int, metavar="N", help="make the console as slow as a serial line of N baud")
    group.addoption(
        "--lane",
        choices=("auto", "serial"),
        default="auto",
        help="how requests travel: through shared memory where it can be, or over the serial line",
    )
    group.addoption("--dangerous", action="store_true", help="also run tests that can take an L0 host down")
    group.addoption("--baseline", metavar="FILE", help="the known deviations (default: baselines/TARGET.toml)")
    group.addoption("--nsvm-answers", metavar="FILE", help="keep the target's answers for `nsvm sensitivity`")
    group.addoption("--nsvm-list", metavar="FILE", help="write the tests and their clauses as JSON and run nothing")


def pytest_configure(config: pytest.Config) -> None:
    """Registers markers; prepares the record where this process runs the session."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    option = config.option
    if not option.target or option.nsvm_list or option.collectonly:
        return
    if not hasattr(config, "workerinput"):
        if not option.nsvm_out:
            option.nsvm_out = str(
                config.rootpath / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{file_name(option.target)}"
            )
        try:
            settings = _settings(config)
            target = check_setup(settings)
            baseline = settings.baseline_of(target)
            release(target)
            if option.nsvm_answers:
                replay.begin(Path(option.nsvm_answers))
            config.stash[CONTROL] = Control(config, baseline)
        except (SetupError, ClauseError, BaselineError, replay.AnswersError, feature_mask.MaskError) as error:
            raise pytest.UsageError(str(error)) from None
    if hasattr(config, "workerinput") or not _distributed(config):
        try:
            config.stash[WORKER] = Worker(_settings(config))
        except (SetupError, ClauseError, BaselineError) as error:
            raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the target, and writes what was counted: before an xdist worker says that it is done."""
    worker = session.config.stash.get(WORKER, None)
    if worker is not None:
        worker.close()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the target; the record was ended before, at the end of the session."""
    worker = config.stash.get(WORKER, None)
    if worker is not None:
        worker.close()
        del config.stash[WORKER]
    control = config.stash.get(CONTROL, None)
    if control is not None:
        control.finish()
        del config.stash[CONTROL]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Names the target and the run folder."""
    if config.option.target:
        return f"nsvm {VERSION}: target {config.option.target}, run folder {config.option.nsvm_out}"
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses tests without a clause and clauses that do not exist; lists and rehearses."""
    suite_items = [item for item in items if _in_suites(item)]
    if not suite_items:
        return
    known = load_clauses(config.rootpath / "suites")
    listed = []
    for item in suite_items:
        ids = _clauses_of(item)
        unknown = [name for name in ids if name not in known]
        if not ids or unknown:
            wrong = f"names no clause that exists: {', '.join(unknown)}" if unknown else "names no clause"
            raise pytest.UsageError(f"{item.nodeid} {wrong}; see README, how to add a clause")
        listed.append({"test": item.nodeid, "clauses": ids})
    if config.option.nsvm_list:
        Path(config.option.nsvm_list).write_text(json.dumps(listed))
        items.clear()
        return
    if not config.option.target and not config.option.collectonly:
        raise pytest.UsageError(f"say which target: --target {' or '.join(target_names())}")
    worker = config.stash.get(WORKER, None)
    if worker is not None:
        rehearsal.rehearse(suite_items, worker.assembler)


@pytest.fixture
def l1(request: pytest.FixtureRequest) -> Iterator[L1]:
    """The test's hold on L1; see harness/l1.py."""
    worker = request.config.stash.get(WORKER, None)
    if worker is None:
        pytest.skip("no target was named (--target)")
    node = request.node
    if (
        node.get_closest_marker("dangerous")
        and not worker.target.capabilities().disposable
        and not worker.settings.dangerous
    ):
        pytest.skip("dangerous on a real host: runs only with --dangerous")
    if node.get_closest_marker("two_cpus") and worker.target.capabilities().cpus_max < 2:
        pytest.skip(f"a second CPU is missing: {worker.target.name} has one")
    deadline = node.get_closest_marker("deadline")
    make = replay.RecordingL1 if request.config.option.nsvm_answers else L1
    yield make(worker.session, worker.assembler, worker.tallies, deadline.args[0] if deadline else None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a suite's test so that it ends in a verdict; other tests run as ever."""
    worker = pyfuncitem.config.stash.get(WORKER, None)
    l1 = pyfuncitem.funcargs.get("l1")
    if worker is None or not isinstance(l1, L1):
        return None
    started = time.monotonic()
    decided = Attempts(worker, pyfuncitem, l1, _clauses_of(pyfuncitem)).run()
    worker.writer.write(decided.result(time.monotonic() - started))
    if isinstance(l1, replay.RecordingL1):
        answers = Path(pyfuncitem.config.option.nsvm_answers)
        l1.keep(answers, pyfuncitem.nodeid, worker.settings.target, decided.verdict, decided.news)
    pyfuncitem.user_properties.append((RECORDED, decided.verdict))
    decided.raise_outcome()
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Records skips that come before the test's function, and errors of fixtures."""
    outcome = yield
    report = outcome.get_result()
    worker = item.config.stash.get(WORKER, None)
    if worker is None or not _in_suites(item):
        return
    if report.when == "setup" and not report.passed:
        verdict = "SKIP" if report.skipped else "ERROR"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        worker.writer.write(
            Result(
                test=item.nodeid, target=worker.settings.target, verdict=verdict, worker=worker.settings.worker,
                clauses=_clauses_of(item), news="skipped" if report.skipped else "ok",
                reason=_last_line(reason.removeprefix("Skipped: ")),
            )
        )  # fmt: skip
        item.user_properties.append((RECORDED, verdict))
        report.user_properties.append((RECORDED, verdict))


class Control:
    """The process that owns the run: it begins and ends the record, and notes tests whose worker died."""

    def __init__(self, config: pytest.Config, baseline: Baseline) -> None:
        self._option = config.option
        self._baseline = baseline
        self._whole = _is_whole(config)
        self._out = Path(config.option.nsvm_out)
        self._writer = Writer(self._out / "run.jsonl")
        self._started = time.monotonic()
        self.interrupted = False
        self._expected: set[str] = set()
        self.path = self._out / "run.jsonl"
        self._writer.write(
            RunStart(
                run_id=uuid.uuid4().hex[:12],
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                argv=sys.argv,
                nsvm=NsvmInfo(version=VERSION, **_commit()),
                python=platform.python_version(),
                host=HostInfo(os=platform.platform(), cpu=_cpu()),
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
        config.pluginmanager.register(self, "nsvm-control")

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tells an xdist worker where the record is."""
        node.workerinput["nsvm_out"] = str(self._out)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learns what is to be run, where it is run by this process."""
        self._expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Learns it from an xdist worker."""
        self._expect(ids)

    def _expect(self, tests: Iterable[str]) -> None:
        self._expected.update(test for test in tests if test.startswith("suites/"))

    def pytest_keyboard_interrupt(self) -> None:
        """Writes down that the run was cut short."""
        self.interrupted = True
        self._writer.write(Interrupted(reason="Ctrl-C"))

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A report of a suite's test that no worker recorded means that the worker died over it."""
        # xdist reports a test whose worker died as failed, with a phase of its own ("???").
        recorded = any(name == RECORDED for name, _ in report.user_properties)
        if recorded or report.passed or report.when == "teardown" or not report.nodeid.startswith("suites/"):
            return
        reason = _last_line(str(report.longrepr or "")) or "the worker died"
        self._writer.write(Result(test=report.nodeid, target=self._option.target, verdict="ERROR", reason=reason[:400]))

    def finish(self) -> None:
        """Ends the record."""
        run = load(self.path)
        # However it was ended, by a second Ctrl-C too: a run that left tests out is one that was cut short.
        left = self._expected - {result.test for result in run.results}
        if left and not self.interrupted and not (self._option.maxfail or getattr(self._option, "stepwise", False)):
            self.interrupted = True
            self._writer.write(Interrupted(reason=f"{len(left)} of {len(self._expected)} tests were not run"))
        if self._whole and not self.interrupted:
            for result in _mended_everywhere(self._baseline, run, self._option.target):
                self._writer.write(result)
            run = load(self.path)
        summary = summarise(run, ending=True)
        self._writer.write(
            End(
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
                duration_s=round(time.monotonic() - self._started, 3),
                exit_status=3 if self.interrupted else summary.exit_status,
                counts=summary.counts,
                new=summary.new,
                known=summary.known,
                mended=summary.mended,
            )
        )
        self._writer.close()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _is_whole(config: pytest.Config) -> bool:
    """True if all the suites were asked for, so that what was not seen is not there."""
    option = config.option
    all_of_it = (config.rootpath, config.rootpath / "suites")
    asked = any((config.invocation_params.dir / argument).resolve() in all_of_it for argument in config.args)
    fewer = ("without", "keyword", "markexpr", "lf", "maxfail", "deselect", "ignore", "ignore_glob", "stepwise")
    return asked and not any(getattr(option, name, None) for name in fewer)


def _mended_everywhere(baseline: Baseline, run: Run, target: str) -> Iterator[Result]:
    """Known deviations that no test of a whole run has shown: of a whole clause, or of a universal check in tests that
    are named. What a test says of a clause that it names itself was told with the test.
    """
    universal = {item.clause for item in run.universals if item.checked}
    fired = {item.clause for item in run.universals if item.failed}
    judged = universal | {check.clause for result in run.results for check in result.checks if check.verdict == "PASS"}
    for entry in baseline.deviations:
        if entry.sometimes or entry.clause not in (universal if entry.tests else judged):
            continue
        if not entry.tests and entry.clause in fired:
            continue  # in an attempt that did not count
        covered = [result for result in run.results if entry.covers(entry.clause, result.test)]
        told = [check for result in covered for check in result.checks if check.clause == entry.clause]
        if any(check.verdict in DEVIATES or (entry.tests and not check.universal) for check in told):
            continue
        verdicts = {result.verdict for result in covered} - {"SKIP"}
        if entry.tests and (not verdicts or verdicts & LOST_VERDICTS):
            continue
        which = f" in {', '.join(entry.tests)}" if entry.tests else ""
        reason = f"the baseline says that this clause deviates{which}; no test of this run has shown it"
        reference = BaselineRef(reason=entry.reason, reference=entry.reference)
        check = Check(clause=entry.clause, verdict="PASS", news="mended", baseline=reference, summary=reason)
        test = f"{OF_BASELINE}{target}.toml::{entry.clause}{f'[{entry.tests[0]}]' if entry.tests else ''}"
        yield Result(test=test, target=target, verdict="PASS", news="mended", reason=reason, checks=[check])


def _clauses_of(item: pytest.Item) -> list[str]:
    return list(dict.fromkeys(str(name) for mark in item.iter_markers("clause") for name in mark.args))


def _in_suites(item: pytest.Item) -> bool:
    return item.config.rootpath / "suites" in Path(item.path).parents


def _distributed(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None))


def _settings(config: pytest.Config) -> Settings:
    option = config.option
    workerinput: dict[str, str] = getattr(config, "workerinput", {})
    return Settings(
        target=option.target,
        out=Path(workerinput.get("nsvm_out") or option.nsvm_out),
        root=config.rootpath,
        worker=workerinput.get("workerid", "main"),
        qemu=option.qemu,
        bochs=option.bochs,
        lane=option.lane,
        fresh_boot=option.fresh_boot,
        dangerous=option.dangerous,
        baseline=Path(option.baseline) if option.baseline else None,
        cpu_model=option.cpu,
        without=feature_mask.parse(option.without or ""),
        baud=option.baud,
    )


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


__all__ = ["AssemblyError", "l1"]
