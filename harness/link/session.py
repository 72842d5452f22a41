"""One worker's hold on one target: boots it, runs scenarios on it, notices when it is lost, boots it again.

A hang loses one test: every request has a deadline, and whatever goes wrong with the target is turned into TargetLost,
which says what kind of loss it was and carries the evidence. The next request boots the target again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.link.link import Hello, Link, LinkClosed, LinkError, LinkGarbage, LinkRefused, LinkReset, LinkTimeout
from harness.machine.base import Distant, Replaceable, Target, TargetError
from harness.record import Verdict
from harness.scenario import places, steps
from harness.scenario.scenario import Item, Scenario, Templates, compile_items
from harness.scenario.steps import MalformedAnswer, Record, Status, Step, TableKind
from harness.svm.events import vector_name

DEADLINE_S = 10.0
ROUND_TRIPS = 200  # and this many round trips, for consoles that are slow
START_TRIES = 3
HISTORY_MAX = 4096
SVM_OFF_AND_ON = bytes.fromhex(
    "b9 170101c0 0f32 89c6 89d7"  # RDMSR of VM_HSAVE_PA, kept in ESI and EDI: an L0 may forget it meanwhile
    "b9 800000c0 0f32 25 ffefffff 0f30"  # RDMSR of EFER, without SVME, WRMSR
    "0d 00100000 0f30"  # with SVME, WRMSR
    "b9 170101c0 89f0 89fa 0f30 c3"  # WRMSR of VM_HSAVE_PA, RET
)
RET = b"\xc3"  # the blob that does nothing, for L1.restore_step


class TargetLost(Exception):
    """The target crashed, hung, was reset or cannot be reached. `verdict` is CRASH, HANG or MISS."""

    def __init__(
        self, verdict: Verdict, what: str, reason: str, *, frames: tuple[str, ...] = (), log: str = ""
    ) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.what = what  # "reset", "crash", "hang", "garbage", "lost" (the way there alone), "missing"
        self.reason = reason
        self.frames = frames
        self.log = log


class ExecutorRefused(Exception):
    """The executor would not do a step: a scenario that cannot be, or a bug of ours."""


@dataclass(frozen=True, slots=True)
class Past:
    """A scenario that a boot has run, and which test it was of."""

    test: str
    scenario: Scenario
    deadline_s: float | None


@dataclass
class Boot:
    """One boot of the target. `history` holds the last scenarios that it ran, oldest first."""

    number: int
    link: Link
    hello: Hello
    templates: Templates = field(default_factory=Templates)
    scenarios: int = 0
    dirty: str | None = None
    history: deque[Past] = field(default_factory=lambda: deque(maxlen=HISTORY_MAX))


class Session:
    """Boots and reboots one target. `on_event(what, detail)` hears of boots and losses."""

    def __init__(
        self,
        target: Target,
        *,
        use_lane: bool = True,
        on_event: Callable[[str, str], None] | None = None,
        ask_msrs: Sequence[int] = (),
    ) -> None:
        self.target = target
        self.boots = 0
        self.test = ""  # whose scenarios are run
        self.msrs: dict[int, str] = {}
        """What the first boot read of `ask_msrs`: 16 hexadecimal digits, or the fault (`#GP[0]`)."""
        self._ask_msrs = ask_msrs
        self._use_lane = use_lane
        self._on_event = on_event or (lambda _what, _detail: None)
        self._boot: Boot | None = None
        self._failed_starts = 0
        self._last_failure = ""

    @property
    def deadline_s(self) -> float:
        """The deadline of a scenario that names none."""
        return DEADLINE_S + ROUND_TRIPS * self.target.capabilities().round_trip_s

    @property
    def boot(self) -> Boot:
        """The running boot; starts one where there is none. Raises TargetLost with MISS if it cannot be started."""
        if self._boot is None:
            self._boot = self._start()
        return self._boot

    @property
    def given_up(self) -> str:
        """Why the target is not started any more: it did not start so often in a row. "" while it is."""
        if self._failed_starts < START_TRIES:
            return ""
        return f"{self.target.name} did not start {START_TRIES} times in a row; at last: {self._last_failure}"

    @property
    def running(self) -> Boot | None:
        """The running boot, if there is one."""
        return self._boot

    def run(self, scenario: Scenario, deadline_s: float | None = None) -> list[Record]:
        """Runs a scenario and gives the answer record of each of its steps (pages have none).

        Raises TargetLost, or ExecutorRefused if a step was not done.
        """
        boot = self.boot
        boot.scenarios += 1
        boot.history.append(Past(self.test, scenario, deadline_s))
        compiled = compile_items(scenario.items, boot.templates)
        wanted = {id(item) for item in scenario.items if isinstance(item, Step)}
        records = self._send(boot, compiled, deadline_s or self.deadline_s)
        return [record for step, record in zip(compiled, records, strict=True) if id(step) in wanted]

    def restart(self, why: str, *, discard: bool = False) -> None:
        """Ends the boot; the next use starts a new one. `discard`: on another machine, where the target can do that."""
        if self._boot is not None:
            self._on_event("restart", why)
        self._stop()
        if discard and isinstance(self.target, Replaceable):
            self.target.discard()

    def close(self) -> None:
        """Ends the target."""
        self._stop()

    def _send(self, boot: Boot, compiled: list[Step], deadline_s: float) -> list[Record]:
        records: list[Record] = []
        for batch in _batches(compiled, boot.link.request_max):
            try:
                answered = steps.split_records(boot.link.run(steps.encode_list(batch), deadline_s))
            except LinkError as error:
                raise self._lost(error, deadline_s) from error
            except MalformedAnswer as error:
                self._stop()
                raise TargetLost("CRASH", "garbage", f"the executor's answer makes no sense: {error}") from error
            except Exception:
                self._stop()  # whatever it was, what the boot does now is not known
                raise
            try:
                _check(batch, answered)
            except ExecutorRefused:
                boot.dirty = "a step was refused, and those behind it were not done"
                raise
            records += answered
        return records

    def _start(self) -> Boot:
        if self.given_up:
            raise TargetLost("MISS", "missing", self.given_up)
        capabilities = self.target.capabilities()
        lane = None
        try:
            console = self.target.start()
            if self._use_lane and capabilities.shared_memory:
                lane = self.target.lane_memory()
            link = Link(console, lane=lane, round_trip_s=capabilities.round_trip_s)
            hello = link.hello(capabilities.boot_deadline_s)
            self.boots += 1
            boot = Boot(self.boots, link, hello)
            self._prepare(boot)
        except TargetError as error:
            self._failed_starts += 1
            self._last_failure = str(error)
            self._on_event("missing", f"it did not start: {error}")
            raise TargetLost("MISS", "missing", f"{self.target.name} did not start: {error}", log=error.log) from error
        except LinkError as error:
            raise self._unusable(self._lost(error, capabilities.boot_deadline_s)) from error
        self._failed_starts = 0
        self._on_event(
            "boot",
            f"boot {boot.number}, executor {hello.build_id.hex()}, lane {'memory' if link.on_lane else 'serial'}",
        )
        return boot

    def _prepare(self, boot: Boot) -> None:
        """A boot that ends over what every boot begins with is a failed start: no test has asked it anything."""
        try:
            self._send(boot, prelude(), self.deadline_s)
            if self._ask_msrs and not self.msrs:
                read = self._send(boot, [steps.rdmsr(number) for number in self._ask_msrs], self.deadline_s)
                self.msrs = {number: _read(record) for number, record in zip(self._ask_msrs, read, strict=True)}
        except TargetLost as lost:
            raise self._unusable(lost) from lost

    def _unusable(self, lost: TargetLost) -> TargetLost:
        self._failed_starts += 1
        self._last_failure = lost.reason
        reason = f"{self.target.name} started, but its executor cannot be used: {lost.reason}"
        return TargetLost("MISS", "missing", reason, frames=lost.frames, log=lost.log)

    def _lost(self, error: LinkError, deadline_s: float) -> TargetLost:
        log = self.target.log_tail()
        ended = self.target.exit_reason()
        verdict: Verdict
        match error:
            case LinkReset():
                verdict, what, reason = "CRASH", "reset", "the machine was reset: a second hello came"
            case LinkClosed():
                verdict, what, reason = "CRASH", "crash", "the target ended"
            case LinkGarbage():
                verdict, what, reason = "CRASH", "garbage", f"only garbage came within {deadline_s:.1f} s"
            case LinkRefused():
                verdict, what, reason = "CRASH", "garbage", "the executor refused the same request again and again"
            case LinkTimeout():
                verdict, what, reason = "HANG", "hang", f"no answer within {deadline_s:.1f} s"
            case _:
                verdict, what, reason = "CRASH", "garbage", str(error)
        if isinstance(self.target, Distant) and self.target.way_lost():
            verdict, what, reason = "MISS", "lost", str(ended)
        elif ended:
            verdict = "CRASH" if what != "reset" else verdict
            reason += f"; {ended}"
        if error.notes:
            reason += f"; the executor says: {error.notes[-1]}"
        if error.console_text.strip():
            log = f"console:\n{error.console_text}\n{log}"
        self._on_event(what, reason)
        self._stop()
        return TargetLost(verdict, what, reason, frames=error.last_frames, log=log)

    def _stop(self) -> None:
        self._boot = None
        self.target.stop()


def _read(record: Record) -> str:
    value, fault = steps.decode_msr(record)
    if fault is None:
        return f"{value or 0:016X}"
    return vector_name(fault.vector) + ("" if fault.error is None else f"[{fault.error:X}]")


def prelude() -> list[Step]:
    """What every boot begins with: the permission maps and page tables that scenarios take for granted."""
    return [
        steps.mem_fill(places.IOPM, 0x3000, 0),
        steps.mem_fill(places.MSRPM, 0x2000, 0),
        steps.tables(places.TABLES_LONG, TableKind.LONG),
        steps.tables(places.TABLES_NESTED, TableKind.LONG),
        steps.tables(places.TABLES_PAE, TableKind.PAE),
        steps.tables(places.TABLES_LEGACY, TableKind.LEGACY),
        *steps.mem_write(places.L1_CODE, RET),
        *steps.mem_write(places.SVM_OFF_AND_ON, SVM_OFF_AND_ON),
    ]


def _batches(compiled: list[Step], request_max: int) -> list[list[Step]]:
    """Cuts a list of steps into requests that fit."""
    batches: list[list[Step]] = [[]]
    room = request_max
    for step in compiled:
        size = steps.RECORD.size + len(step.body)
        if size > request_max:
            raise ExecutorRefused(f"a step of {size} bytes does not fit a request of {request_max}")
        if size > room:
            batches.append([])
            room = request_max
        batches[-1].append(step)
        room -= size
    return batches


def _check(batch: list[Step], answered: list[Record]) -> None:
    for step, record in zip(batch, answered, strict=False):
        if record.status not in (Status.OK, Status.FAULT):
            raise ExecutorRefused(f"step {step.op.name} {step.label}: {record.status.name}")
    if len(answered) != len(batch):
        raise ExecutorRefused(f"{len(batch)} steps were sent, {len(answered)} were answered")


__all__ = ["Boot", "ExecutorRefused", "Item", "Session", "TargetLost"]
