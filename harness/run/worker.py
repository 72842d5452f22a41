"""What one pytest process holds for its whole run: the target, the clauses, the baseline, the run record."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from harness.guest.l1 import Tally
from harness.home import ROOT, build_of, state_of
from harness.judge.baseline import Baseline
from harness.judge.clauses import Clause, load_clauses
from harness.judge.expected import MSRS, policy_of
from harness.judge.offers import Offers, offers_at
from harness.judge.policy import Policy
from harness.link.hello import Hello
from harness.link.session import Session
from harness.machine.base import Claimable, CpusFixed, Imageless, Target, TargetError, TargetOptions, Tried, release
from harness.machine.leftovers import WorkFolder
from harness.record import Event, TargetInfo, Universal, Writer
from harness.run.aftermath import Aftermath
from harness.run.options import RunOptions
from harness.scenario.asm import Assembler
from harness.svm.msr import MSR
from harness.targets import create
from harness.targets.replay import Replay
from harness.trace.replaying import TraceSession

EXECUTOR = build_of("executor")


class SetupError(Exception):
    """Something is missing before anything can run. The text is one line for people."""


@dataclass(frozen=True, kw_only=True)
class Settings(RunOptions):
    """The options of a run, and where it runs."""

    target: str
    out: Path
    root: Path = ROOT  # holds suites/ and baselines/
    worker: str = "main"
    cpus: int = 1

    def baseline_of(self, target: Target) -> Baseline:
        """The known deviations of the target at its version. Raises BaselineError."""
        return Baseline.load_all(self._baseline_files(target), target.version_tuple)

    def offers_of(self, target: Target) -> Offers | None:
        """The bits that the target must offer at its version, if its baselines say. Raises BaselineError."""
        return offers_at(self._baseline_files(target), target.version_tuple)

    def policy_of(self) -> Policy | None:
        """What `--policy` names. Raises ExpectError."""
        return None if self.policy is None else policy_of(self.policy, self.root / "policies")

    def _baseline_files(self, target: Target) -> list[Path]:
        return [self.baseline] if self.baseline else [self.root / "baselines" / f"{n}.toml" for n in target.baselines]

    def rerun(self, test: str, after: Sequence[str] = ()) -> str:
        """The command that runs one test again, on one boot `after` those tests; without a test, all of it."""
        given = replace(self, shuffle=None) if after else self
        tests = shlex.join([*after, test] if test else [])
        return f"./nsvm run --target {shlex.quote(self.target)}{given.again}{' -n 1' * bool(after)} {tests}".strip()

    def options(self, workdir: Path, cpus: int) -> TargetOptions:
        """What the run says about its target."""
        return TargetOptions(
            workdir=workdir,
            executor_elf=EXECUTOR / "executor.elf",
            disk_image=EXECUTOR / "disk.img",
            cpus=cpus,
            **self.for_target(),
        )


class Worker:
    """One process' share of a run."""

    def __init__(self, settings: Settings, make_target: Callable[[int], Target] | None = None) -> None:
        self.settings = settings
        self.clauses: dict[str, Clause] = load_clauses(settings.root / "suites")
        self.assembler = Assembler(state_of(settings.root) / "cache" / "asm")
        self.aftermath = Aftermath()
        self.tallies: dict[str, Tally] = {}
        self.writer = Writer(settings.out / "run.jsonl")
        self._workdir = WorkFolder(settings.worker)
        self._make_target = make_target or self._create
        self._cpus = settings.cpus
        self._boots_before = 0
        self._last_hello: Hello | None = None
        self._closed = False
        try:
            self.target = self._make_target(self._cpus)
            self.baseline = settings.baseline_of(self.target)
        except TargetError as error:
            self._workdir.cleanup()
            raise SetupError(str(error)) from None
        self.session = self._session()

    def use_cpus(self, cpus: int) -> None:
        """Sees to it that the target has that many CPUs: the next boot is another machine where it has not."""
        if cpus == self._cpus or (isinstance(self.target, CpusFixed) and self.target.cpus_fixed):
            return
        self.session.restart(f"a machine with {cpus} CPUs is needed")
        self._boots_before += self.session.boots
        self._cpus = cpus
        release(self.target)
        self.target = self._make_target(cpus)
        self.session = self._session()

    def machine(self) -> str:
        """The machine in one line."""
        hello = self._hello()
        if hello is None:
            return f"{self.target.name}, {self.target.version()}"
        cpuid = hello.cpuid
        edx = f"Fn8000_000A EDX {cpuid.svm_bits:08X}h"
        return f"{self.target.name}, {self.target.version()}; {cpuid.vendor} {cpuid.brand.strip()}, {edx}"

    def rerun(self, test: str, after: Sequence[str] = ()) -> str:
        """The command that runs one test again, on one boot with the tests before it that matter."""
        return self.settings.rerun(test, after)

    def write_target(self) -> None:
        """Writes down what the target is, as soon and as far as it is known."""
        hello = self._hello()
        leaves = [] if hello is None else [(*key, *value) for key, value in sorted(hello.cpuid.leaves.items())]
        self.writer.write(
            TargetInfo(
                target=self.settings.target,
                worker=self.settings.worker,
                version=self.target.version(),
                command=self.target.command_line(),
                baselines=self.target.baselines,
                executor_build="" if hello is None else hello.build_id.hex(),
                cpuid=leaves,
                edx=0 if hello is None else hello.cpuid.svm_bits,
                boots=self._boots_before + self.session.boots,
                msrs={MSR(number).name: read for number, read in self.session.msrs.items()},
            )
        )

    def close(self) -> None:
        """Writes what was counted and ends the target; may be called again.

        The target is ended whatever becomes of the rest: a full disk must leave no machine running and no host held.
        """
        if self._closed:
            return
        self._closed = True
        with ExitStack() as ending:
            ending.callback(self._workdir.cleanup)
            ending.callback(self.writer.close)
            ending.callback(lambda: release(self.target))
            ending.callback(self.session.close)
            for clause, tally in sorted(self.tallies.items()):
                self.writer.write(
                    Universal(target=self.settings.target, clause=clause, checked=tally.checked, failed=tally.failed)
                )
            if self.session.boots:
                self.write_target()

    def _hello(self) -> Hello | None:
        """What L1 said of the machine: at this boot, or at the last one where there is none now."""
        if self.session.running is not None:
            self._last_hello = self.session.running.hello
        return self._last_hello

    def _session(self) -> Session:
        if isinstance(self.target, Replay):
            return TraceSession(self.target, self.target.trace)
        return Session(
            self.target,
            use_lane=self.settings.lane != "serial",
            on_event=self.event,
            ask_msrs=[int(MSRS[word][0]) for word in self.settings.expect if word in MSRS],
        )

    def event(self, what: str, detail: str) -> None:
        """Writes down something that befell the target, or a test's second try."""
        event = Event(target=self.settings.target, worker=self.settings.worker, what=what, detail=detail)
        self.writer.write(event)

    def _create(self, cpus: int) -> Target:
        return create(self.settings.target, self.settings.options(self._workdir.path, cpus))


def check_setup(settings: Settings) -> Target:
    """The target, unstarted, if all that it needs is here. Raises SetupError, which says what is missing."""
    try:
        target = create(settings.target, settings.options(Path(tempfile.gettempdir()), settings.cpus))
        missing = target.missing()
        if not missing:
            target.version()  # asks a host, which may not be there
            target.command_line()  # refuses options that mean nothing to it
            if isinstance(target, Tried):
                target.try_options()
            if isinstance(target, Claimable):
                target.claim()  # a host that somebody else has
    except KeyError as error:
        raise SetupError(str(error.args[0])) from None
    except TargetError as error:
        raise SetupError(str(error)) from None
    needs_executor = target.needs_executor if isinstance(target, Imageless) else True
    if needs_executor and not (EXECUTOR / "executor.elf").exists():
        raise SetupError("the executor is not built: run `make -C guest_payloads/executor` (./nsvm run does)")
    if missing:
        named = "; ".join(f"{i.what} (package {i.package}: {i.why})" if i.package else i.what for i in missing)
        raise SetupError(f"target {settings.target} cannot start here: {named}")
    return target
