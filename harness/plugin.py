"""The pytest plugin: options, markers, the `l1` fixture, verdicts instead of mere failures, and the run record."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.export import capture
from harness.guest.l1 import L1
from harness.judge.baseline import BaselineError
from harness.judge.clauses import ClauseError, load_clauses
from harness.judge.expected import ExpectError
from harness.judge.noting import overhearing
from harness.machine.base import release
from harness.record import Result, Verdict
from harness.run import order, rehearsal
from harness.run.attempts import Attempts
from harness.run.collection import add_reason, clauses_of, function_of, refuse, without_clause
from harness.run.control import RECORDED, Control, last_line
from harness.run.options import OptionError, RunOptions, add_options
from harness.run.refused import Refusals
from harness.run.scope import chosen_by, scope_of
from harness.run.showing import Showing
from harness.run.worker import Settings, SetupError, Worker, check_setup
from harness.targets import built_names, file_name
from harness.targets import names as target_names
from harness.trace import answers, replaying
from harness.version import VERSION

WORKER = pytest.StashKey[Worker]()
CONTROL = pytest.StashKey[Control]()
SHOWING = "nsvm-showing"
DESELECTED = pytest.StashKey[int]()

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
    add_options(group.addoption)
    group.addoption(
        "--nsvm-answers", metavar="FILE", help="keep the target's answers, for `nsvm sensitivity`, `record`"
    )
    group.addoption("--nsvm-export", metavar="FILE", help="write what one test did and compared, for `nsvm export`")
    group.addoption("--nsvm-show", metavar="FILE", help="write what the tests set as JSON lines, without a target")
    group.addoption("--nsvm-list", metavar="FILE", help="write the tests and their clauses as JSON and run nothing")


def pytest_configure(config: pytest.Config) -> None:
    """Registers markers; prepares the record where this process runs the session."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    option = config.option
    if option.nsvm_show:
        config.pluginmanager.register(Showing(config), SHOWING)
        return
    if not option.target or option.nsvm_list or option.collectonly:
        return
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Refusals(config), "nsvm-refusals")
    option.continue_on_collection_errors = True  # a broken file is a result of its own: the others are judged
    try:
        if not hasattr(config, "workerinput"):
            if not option.nsvm_out:
                name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{file_name(option.target)}"
                option.nsvm_out = str(config.rootpath / "runs" / name)
            settings = _settings(config)
            target = check_setup(settings)
            baseline, offers = settings.baseline_of(target), settings.offers_of(target)
            release(target)
            if option.nsvm_answers:
                answers.begin(Path(option.nsvm_answers))
            config.stash[CONTROL] = Control(config, settings, baseline, offers)
        if hasattr(config, "workerinput") or not _distributed(config):
            config.stash[WORKER] = Worker(_settings(config))
    except (SetupError, ClauseError, BaselineError, ExpectError, OptionError, answers.AnswersError) as error:
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


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Gives a collection that failed its file, line and reason."""
    report = yield
    call: pytest.CallInfo[object] | None = getattr(report, "call", None)
    if report.failed and call is not None and call.excinfo is not None:
        add_reason(report, collector, call.excinfo.value)
    return report


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Counts what was not chosen."""
    for item in items[:1]:
        before = item.config.stash.get(DESELECTED, 0)
        item.config.stash[DESELECTED] = before + sum(_in_suites(each) for each in items)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes out tests that name what does not exist, each as an error of its own; lists and rehearses."""
    suite_items = [item for item in items if _in_suites(item)]
    if not suite_items:
        return
    asked = config.option
    if not (asked.nsvm_list or asked.nsvm_show or asked.target or asked.collectonly):
        raise pytest.UsageError(f"say which target: --target {' or '.join(target_names())}")
    try:
        wrong = without_clause(suite_items, load_clauses(config.rootpath / "suites"))
    except ClauseError as wrong_file:
        raise pytest.UsageError(str(wrong_file)) from None
    first = {function_of(item): item for item in reversed(suite_items)}
    for function, why in wrong.items():
        if config.option.nsvm_list:
            raise pytest.UsageError(f"{function} {why}")
        refuse(first[function], function, why)
    good = [item for item in suite_items if function_of(item) not in wrong]
    if config.option.nsvm_list:
        listed = [{"test": item.nodeid, "clauses": clauses_of(item)} for item in good]
        Path(config.option.nsvm_list).write_text(json.dumps(listed))
        items.clear()
        return
    worker = config.stash.get(WORKER, None)
    refused = rehearsal.rehearse(good, worker.assembler) if worker is not None else {}
    for item, error in refused.items():
        refuse(item, item.nodeid, str(error), clauses_of(item))
    out = {id(item) for item in suite_items} - {id(item) for item in good} | {id(item) for item in refused}
    items[:] = [item for item in items if id(item) not in out]
    seed = RunOptions.of(config.option).shuffle
    if seed is not None:
        order.shuffle(items, seed)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Writes down how much of the suites is to be run."""
    config = session.config
    worker = config.stash.get(WORKER, None)
    if worker is not None:
        by = getattr(config, "workerinput", {}).get("nsvm_chosen_by")
        by = chosen_by(config) if by is None else by
        chosen = sum(_in_suites(item) for item in session.items)
        worker.writer.write(scope_of(config, worker.settings, chosen, config.stash.get(DESELECTED, 0), by))


@pytest.fixture
def l1(request: pytest.FixtureRequest) -> Iterator[L1]:
    """The test's hold on L1; see harness/guest/l1.py."""
    showing = request.config.pluginmanager.get_plugin(SHOWING)
    if showing is not None:
        yield showing.l1(request.node)
        return
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
    replayed = isinstance(worker.session, replaying.TraceSession)
    keeps = request.config.option.nsvm_answers
    if request.config.option.nsvm_export:
        exporting = capture.CapturingL1(worker.session, worker.assembler, worker.tallies)
        with overhearing(exporting):
            yield exporting
        return
    make = answers.RecordingL1 if keeps else replaying.TraceL1 if replayed else L1
    yield make(worker.session, worker.assembler, worker.tallies, deadline.args[0] if deadline else None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a suite's test so that it ends in a verdict; other tests run as ever."""
    worker = pyfuncitem.config.stash.get(WORKER, None)
    l1 = pyfuncitem.funcargs.get("l1")
    if worker is None or not isinstance(l1, L1):
        return None
    started = time.monotonic()
    decided = Attempts(worker, pyfuncitem, l1, clauses_of(pyfuncitem)).run()
    result = replace(decided.result(time.monotonic() - started), line=_line_of(pyfuncitem))
    worker.writer.write(result)
    if isinstance(l1, answers.RecordingL1):
        l1.keep(Path(pyfuncitem.config.option.nsvm_answers), result, decided.standing, l1.settled)
    if isinstance(l1, capture.CapturingL1):
        l1.keep(Path(pyfuncitem.config.option.nsvm_export), result, worker.clauses, worker.machine())
    if isinstance(l1, replaying.TraceL1):
        l1.keep(worker.settings.out / replaying.SETTLED, result.test)
    pyfuncitem.user_properties.append((RECORDED, decided.verdict))
    if worker.session.given_up:
        pyfuncitem.session.shouldstop = worker.session.given_up
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
        verdict: Verdict = "SKIP" if report.skipped else "ERROR"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        worker.writer.write(
            Result(
                test=item.nodeid, target=worker.settings.target, verdict=verdict, worker=worker.settings.worker,
                clauses=clauses_of(item), news="skipped" if report.skipped else "ok",
                reason=last_line(reason.removeprefix("Skipped: ")), line=_line_of(item),
            )
        )  # fmt: skip
        item.user_properties.append((RECORDED, verdict))
        report.user_properties.append((RECORDED, verdict))


def _line_of(item: pytest.Item) -> int:
    return (item.location[1] or 0) + 1


def _in_suites(item: pytest.Item) -> bool:
    return item.config.rootpath / "suites" in Path(item.path).parents


def _distributed(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None))


def _settings(config: pytest.Config) -> Settings:
    """The options of this process. Raises OptionError."""
    workerinput: dict[str, str] = getattr(config, "workerinput", {})
    return Settings.of(
        config.option,
        target=config.option.target,
        out=Path(workerinput.get("nsvm_out") or config.option.nsvm_out),
        root=config.rootpath,
        worker=workerinput.get("workerid", "main"),
    )
