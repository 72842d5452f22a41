"""What may stand in a record: one dataclass for each kind of line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from harness.record.verdicts import News, Verdict

SCHEMA: Final = 1
AFTER_OTHERS: Final = "after-others"


@dataclass(frozen=True, kw_only=True, slots=True)
class NsvmInfo:
    """Which nsvm made the record; `commit` is None outside a checkout."""

    version: str = ""
    commit: str | None = None
    dirty: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class HostInfo:
    """The machine that the harness ran on (not the one under test)."""

    os: str = ""
    cpu: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStart:
    """The first record. `started` is ISO 8601 with an offset; `argv` is what the user typed; `shuffle` the seed of the
    order, None for the usual one.
    """

    KIND: ClassVar[str] = "run"
    run_id: str
    started: str
    schema: int = SCHEMA
    argv: Sequence[str] = ()
    nsvm: NsvmInfo = field(default_factory=NsvmInfo)
    python: str = ""
    host: HostInfo = field(default_factory=HostInfo)
    shuffle: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClauseInfo:
    """A clause as the run knew it, so that a report needs no suite. `class_` is "class" in the file."""

    KIND: ClassVar[str] = "clause"
    id: str
    bit: str
    statement: str
    alias: str = ""
    apm: str = ""
    class_: str = "mandatory"
    condition: str = ""
    trust: Sequence[str] = ()
    hardware: str = ""
    note: str = ""


CpuidRow = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetInfo:
    """A target as one worker found it at its first boot. `cpuid` rows are (leaf, subleaf, eax, ebx, ecx, edx).

    Written again by the same worker, the last one counts.
    """

    KIND: ClassVar[str] = "target"
    target: str
    worker: str = ""
    version: str = ""
    command: Sequence[str] = ()
    baselines: Sequence[str] = ()
    executor_build: str = ""
    cpuid: Sequence[CpuidRow] = ()
    edx: int = 0
    boots: int = 0
    msrs: Mapping[str, str] = field(default_factory=dict)
    """What L1 read of the MSRs that the run wanted to be there: 16 hexadecimal digits, or the fault: `#GP[0]`."""

    @property
    def booted(self) -> bool:
        """Whether it was ever asked what it is: `edx` of one that was not says nothing."""
        return bool(self.executor_build or self.cpuid or self.edx)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineRef:
    """Why a deviation is known. `after_others`: the entry is of one that only a shared boot shows; `sometimes`: of one
    that shows by chance.
    """

    reason: str = ""
    reference: str = ""
    after_others: bool = False
    sometimes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One value: what was expected, what came, what the difference means."""

    name: str
    expected: str = ""
    got: str = ""
    meaning: str = ""
    ok: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one test said about one clause. `universal` marks a check that every exit undergoes; `rows` are those that
    differ, new or known.
    """

    clause: str
    verdict: Verdict
    news: News = "ok"
    universal: bool = False
    baseline: BaselineRef | None = None
    summary: str = ""
    rows: Sequence[Row] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeLine:
    """One instruction of the guest. `mark` is "" or a few words: "exit here"."""

    addr: str = ""
    bytes: str = ""
    text: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class SetField:
    """A VMCB field that a test set: its name and offset, what the known-good VMCB has, what was set, bits by name."""

    name: str
    good: str = ""
    now: str = ""
    bits: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a test set. `good` names the known-good VMCB (`long64, nested paging`) from which `fields` and `intercepts`
    (`+cpuid`) differ; `later` is what L1 changed between the last exit but one and the last VMRUN. `steps` are
    L1's, in words. `vmcb_after` is the VMCB after the last exit, see harness/record/packed.py; "" if there was none.
    """

    good: str = ""
    fields: Sequence[SetField] = ()
    intercepts: Sequence[str] = ()
    later: Sequence[SetField] = ()
    steps: Sequence[str] = ()
    vmcb_after: str = ""

    def words(self, steps_max: int = 12) -> list[str]:
        """It in lines for a reader, with at most so many of L1's steps, the last ones."""
        lines = []
        if self.good:
            lines.append(f"VMCB, as it differs from the known-good one ({self.good}):")
            lines += _in_columns(self.fields)
            lines += [f"  intercepts {' '.join(self.intercepts)}"] if self.intercepts else []
            if not self.fields and not self.intercepts:
                lines.append("  not at all")
        if self.later:
            lines += ["L1 changed before the last VMRUN, since the exit before it:", *_in_columns(self.later)]
        if self.steps and steps_max > 0:
            left_out = max(0, len(self.steps) - steps_max)
            lines.append(f"L1's steps{f', without the first {left_out} lines' if left_out else ''}:")
            lines += [f"  {step}" for step in self.steps[left_out:]]
        return lines


def _in_columns(fields: Sequence[SetField]) -> list[str]:
    width = max((len(each.name) for each in fields), default=0)
    lines = []
    for each in fields:
        was = f" (was {each.good})" if each.good else ""
        lines.append(f"  {each.name:<{width}}  {each.now}{was}{f'  {each.bits}' if each.bits else ''}")
    return lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a reader needs to believe a verdict. `at` and `source` are the assert that failed: file and line, and the
    statement. `log` is the target's and the console's, `l0_log` what L0 itself said
    and did meanwhile, gathered by another way than the guest's.
    """

    title: str = ""
    at: str = ""
    source: str = ""
    rows: Sequence[Row] = ()
    code: Sequence[CodeLine] = ()
    setup: Setup | None = None
    frames: Sequence[str] = ()
    log: str = ""
    l0_log: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """How the verdict on a boot of its own compares with the one in the shared boot.

    `state`: not-needed; same (verdict, rows and what came in them); differs (it deviates there too, in another way);
    after-others: the result is the shared boot's, a fresh boot (`fresh_verdict`, `fresh_reason`) does not show it.
    `after` are the fewest earlier tests that were found after which it shows, in order, of the `before` that the boot
    had seen; `how` says in words what was tried.
    """

    state: str = "not-needed"
    shared_verdict: Verdict | Literal[""] = ""
    shared_reason: str = ""
    fresh_verdict: Verdict | Literal[""] = ""
    fresh_reason: str = ""
    after: Sequence[str] = ()
    before: int = 0
    how: str = ""

    @property
    def words(self) -> list[str]:
        """It in words for a reader, line by line; nothing where there was no need of a fresh boot."""
        shared = f"{self.shared_verdict} on a shared boot" + (f" ({self.shared_reason})" if self.shared_reason else "")
        match self.state:
            case "same":
                return ["seen on a shared boot, and the same on a fresh one"]
            case "differs":
                return [f"differs: {shared}; the above is on a fresh boot"]
            case "after-others":
                reason = f" ({self.fresh_reason})" if self.fresh_reason else ""
                after = [f"  {test}" for test in self.after]
                first = f"after others: {shared}; {self.fresh_verdict} on a fresh boot{reason}"
                return [first, *([self.how] if self.how else []), *after]
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One parametrised test on one target. `test` is the pytest node id; `scenario` is 12 hexadecimal digits or ""."""

    KIND: ClassVar[str] = "result"
    test: str
    target: str
    verdict: Verdict
    worker: str = ""
    clauses: Sequence[str] = ()
    news: News = "ok"
    reason: str = ""
    duration_s: float = 0.0
    scenario: str = ""
    checks: Sequence[Check] = ()
    evidence: Sequence[Evidence] = ()
    fresh: Fresh | None = None
    rerun: str = ""
    line: int = 0
    """Where the test begins in its file, from 1; 0 if that is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """How much of the suites a run is about. Written again for the same target, the last one counts.

    `chosen` of `there` tests (0: how many there are is not known), by what (`-k asid_zero`; empty: all of them).
    `options` make the machine or the baseline another (`--cpu max,+svm,-npt`). `ended_by`: the option by which a
    failure ended the run before all the tests were run (`-x`).
    """

    KIND: ClassVar[str] = "scope"
    target: str
    chosen: int = 0
    there: int = 0
    chosen_by: Sequence[str] = ()
    options: Sequence[str] = ()
    ended_by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Universal:
    """Over how many VMRUNs one worker judged a universal clause. Written once at its end; readers add them up."""

    KIND: ClassVar[str] = "universal"
    target: str
    clause: str
    checked: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that befell a target: boot, reset, crash, hang, garbage, lost, missing, restart or warning (of L0).
    retry: a test was tried again and the second answer counts; `detail` names it and says why.
    """

    KIND: ClassVar[str] = "event"
    target: str
    what: str
    worker: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """The run was stopped by its user or by a signal, or ended without all its tests."""

    KIND: ClassVar[str] = "interrupted"
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The last record: nothing was cut off. `counts` is by verdict; new, known and mended count tests."""

    KIND: ClassVar[str] = "end"
    finished: str
    duration_s: float
    exit_status: int
    counts: Mapping[str, int] = field(default_factory=dict)
    new: int = 0
    known: int = 0
    mended: int = 0


Line = RunStart | ClauseInfo | TargetInfo | Scope | Result | Universal | Event | Interrupted | End


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about the record itself. `torn`: the file ends in the middle of a line. `grave`: something is lost."""

    line: int
    text: str
    torn: bool = False
    grave: bool = True
