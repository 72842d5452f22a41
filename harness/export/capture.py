"""What a test asked of a target and compared, caught while it ran there, as requests and checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.anatomy.page import page
from harness.export.captured import Captured
from harness.export.check import Check, Source
from harness.guest.guest import Guest
from harness.guest.l1 import L1, Asked
from harness.judge.clauses import Clause
from harness.judge.code import CodeResult, MsrResult
from harness.judge.comparisons import alternatives
from harness.judge.exit import INVALID_LOW, Exit
from harness.judge.expect import Match, Row, Wanted
from harness.judge.host_state import host_item
from harness.link.session import prelude
from harness.record import BAD_VERDICTS, Result
from harness.scenario.answer_bytes import host_item as host_number
from harness.scenario.scenario import Scenario, Templates, compile_items
from harness.scenario.steps import GPR_FILL, GPR_NUMBER, Op, Record, Step, encode_list
from harness.svm.condition import features_of
from harness.svm.features import FEATURES
from harness.svm.fields import FIELD_BY_NAME

_REGISTERS = ("EAX", "EBX", "ECX", "EDX")


@dataclass(frozen=True)
class _At:
    """The record of an answer."""

    request: int
    record: int
    vmcb_pa: int = 0


class CapturingL1(L1):
    """An L1 that remembers its scenarios as requests, and which result came of which."""

    def reset(self, *, watchdog_us: int = 0) -> None:
        """Forgets what this test did so far."""
        super().reset(watchdog_us=watchdog_us)
        self._templates = Templates()
        self.requests: list[list[Step]] = [prelude()]
        self.scenarios: list[Asked] = []
        self.features: set[str] = set()
        self.matches: list[tuple[Match, str]] = []
        """What was asked, and the statement if it does not simply assert it."""
        self.shows = False  # whether a check was made of a row that deviates
        self._at: dict[int, tuple[object, _At]] = {}  # by id; the object is kept, so that the id stays its own

    def note_made(self, match: Match, frame: FrameType | None) -> None:
        """Only what is asked counts."""

    def note_asked(self, match: Match, held: bool, frame: FrameType | None) -> None:
        """A comparison was asked."""
        place = alternatives(frame)
        if not any(match is each for each, _ in self.matches):
            self.matches.append((match, place.source if place is not None else ""))

    def need(self, *features: str) -> None:
        """Skips the test where a feature is missing, and remembers that it asked."""
        for feature in features:
            self.features |= features_of(feature)
        super().need(*features)

    def execute(
        self, scenario: Scenario, deadline_s: float | None = None, *, guest: Guest | None = None
    ) -> list[Record]:
        """Runs a scenario and remembers it."""
        try:
            return super().execute(scenario, deadline_s, guest=guest)
        finally:  # one over which the target is lost is what it is about
            done = self.asked[-1]
            steps = compile_items(done.scenario.items, self._templates)
            if any(step.op is not Op.HOST_STATE for step in steps):
                self.scenarios.append(done)
                self.requests.append(steps)

    def judge(self, exit: Exit, guest: Guest, *, gif_known: bool, probes: bool = True) -> None:
        """Asks the universal checks, and remembers which answer the exit is."""
        ops = [step.op for step in self.requests[-1]]
        request = len(self.requests) - 1
        if exit.l1 is not None:  # L1's code made VMRUN itself
            at = _At(request, _last(ops, Op.CODE), guest.vmcb_pa)
            self._keep(exit.l1, at)
        else:
            at = _At(request, _last(ops, Op.VMRUN), guest.vmcb_pa)
            if exit.teardown is not None:
                behind = next((n for n in range(at.record + 1, len(ops)) if ops[n] is Op.CODE), at.record)
                self._keep(exit.teardown, _At(request, behind))
        self._keep(exit, at)
        super().judge(exit, guest, gif_known=gif_known, probes=probes)

    def place_of(self, result: object) -> _At | None:
        """The record that a result came of."""
        found = self._at.get(id(result))
        return found[1] if found is not None else None

    def rdmsr(self, msr: int) -> MsrResult:
        """RDMSR in L1."""
        return self._kept(super().rdmsr(msr))

    def wrmsr(self, msr: int, value: int) -> MsrResult:
        """WRMSR in L1."""
        return self._kept(super().wrmsr(msr, value))

    def _kept(self, result: MsrResult) -> MsrResult:
        self._keep(result, _At(len(self.requests) - 1, len(self.requests[-1]) - 1))
        return result

    def _code(self, *args: object, **more: object) -> CodeResult:
        result: CodeResult = super()._code(*args, **more)  # type: ignore[arg-type]
        if result.tail is None:
            ops = [step.op for step in self.requests[-1]]
            self._keep(result, _At(len(self.requests) - 1, _last(ops, Op.CODE)))
        return result

    def keep(self, path: Path, result: Result, clauses: Mapping[str, Clause], machine: str) -> None:
        """Writes what was caught of the test, if it ran at all."""
        if result.verdict in ("SKIP", "MISS", "ERROR"):
            return
        conditions = [clauses[name].condition for name in result.clauses if name in clauses]
        told = captured(self, result.test, list(result.clauses), conditions)
        told.verdict, told.reason, told.machine = result.verdict, result.reason, machine
        for check in result.checks:
            if check.universal and check.verdict in BAD_VERDICTS:
                told.left_out.append(f"{check.clause}, which is asked after every VMRUN: {check.summary}")
        own = any(check.verdict in BAD_VERDICTS and not check.universal for check in result.checks)
        told.hides = result.verdict == "FAIL" and own and not self.shows
        if result.verdict == "FAIL" and not own:
            told.verdict, told.reason = "PASS", "all that it compares itself holds"
        told.write(path)

    def _keep(self, result: object, at: _At) -> None:
        self._at[id(result)] = (result, at)


def captured(l1: CapturingL1, test: str, clauses: list[str], conditions: list[str]) -> Captured:
    """All that was caught of a test. `conditions` are those of the clauses in force."""
    requests = [encode_list(each) for each in l1.requests]
    told = Captured(test, clauses, requests, page=page(l1.scenarios))
    features = l1.features.union(*(features_of(each) for each in conditions))
    told.checks += [_feature(l1, name) for name in sorted(features) if FEATURES[name].infer is None]
    for match, alternative in l1.matches:
        at = l1.place_of(match.of)
        if alternative:
            told.left_out.append(f"not simply asserted: {alternative}")
        elif at is None:
            told.left_out.append(f"of no answer as it came: {match.title}")
        else:
            for row in match.rows:
                check = _check(l1, match.of, row, at)
                if check is None:
                    told.left_out.append(f"{row.name}: {row.expected}")
                    continue
                l1.shows = l1.shows or not row.ok
                if check not in told.checks:
                    told.checks.append(check)
    told.left_out = list(dict.fromkeys(told.left_out))
    return told


def _feature(l1: CapturingL1, name: str) -> Check:
    """That the machine offers the feature, or does not, as the target did."""
    item = FEATURES[name]
    where = item.leaf | item.sub << 32 | _REGISTERS.index(item.register) << 48
    value = int(l1.cpuid.has(name)) << item.bit
    return Check(f"CPUID {item.where} ({name})", Source.CPUID, Wanted((value,), 1 << item.bit, 4), where=where)


def _check(l1: CapturingL1, of: object, row: Row, at: _At) -> Check | None:
    """The check that a row is; None where the payload has not the value."""
    if row.wanted is None:
        return None
    name = row.name
    match name:
        case "VMRUN" | "exception":
            named = "exception of VMRUN in L1" if isinstance(of, Exit) else "exception in L1"
            return Check(f"{named} (0: none, else 100h + vector)", Source.FAULT, row.wanted, at.request, at.record)
        case "error code":
            return Check(
                "error code (100000000h + code, 0: none)", Source.FAULT_ERROR, row.wanted, at.request, at.record
            )
        case "RIP of the fault":
            return Check(name, Source.FAULT_RIP, row.wanted, at.request, at.record)
    if isinstance(of, MsrResult):
        return Check(of.name, Source.MSR, row.wanted, at.request, at.record) if name == "value" else None
    return _of_exit(l1, of, row, at) if isinstance(of, Exit) else None


def _of_exit(l1: CapturingL1, exit: Exit, row: Row, at: _At) -> Check | None:
    wanted = row.wanted
    assert wanted is not None
    name = row.name
    if name in ("EXITCODE", "EXITCODE[31:0]"):
        low = Wanted(tuple(value & INVALID_LOW for value in wanted.values), INVALID_LOW, 8, wanted.negated)
        return Check("EXITCODE[31:0]", Source.MEMORY, low, at.request, at.record, at.vmcb_pa + 0x70)
    if name.startswith("L1's "):
        kind, number = host_number(host_item(name.removeprefix("L1's ")))
        before = exit.host.before[host_item(name.removeprefix("L1's "))]
        return Check(name, Source.HOST, wanted, at.request, at.record, kind << 32 | number, before)
    if name.lower() in GPR_NUMBER and name.isupper():
        register = GPR_NUMBER[name.lower()]
        if name in ("RAX", "RSP"):
            saved = FIELD_BY_NAME[name.lower()]
            return Check(name, Source.MEMORY, wanted, at.request, at.record, at.vmcb_pa + saved.offset)
        if exit.l1 is not None:
            return None
        otherwise = exit.loaded.get(name.lower(), GPR_FILL + register)
        return Check(name, Source.VMRUN_REGISTER, wanted, at.request, at.record, register, otherwise)
    item = FIELD_BY_NAME.get(name)
    if item is None or item.width_bytes > 8:
        return None
    values = tuple(value << item.bit_offset for value in wanted.values)
    whole = Wanted(values, (wanted.mask & item.max) << item.bit_offset, item.width_bytes, wanted.negated)
    return Check(str(item), Source.MEMORY, whole, at.request, at.record, at.vmcb_pa + item.offset)


def _last(ops: list[Op], op: Op) -> int:
    return max((number for number, each in enumerate(ops) if each is op), default=0)
