"""What one VMRUN came back with, and how a test states what it must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.judge.code import CodeResult
from harness.judge.expect import Expected, Match, Row, Wanted, compare, hexadecimal, stated, unchanged
from harness.judge.fault import NO_FAULT, fault_match, fault_text
from harness.judge.host_state import HostState, host_item
from harness.names import nearest
from harness.scenario.steps import GPR_FILL, GPR_NAMES, GPR_NUMBER, Fault, Phase, VmrunAnswer, VmrunResult
from harness.svm.events import vector_name
from harness.svm.exits import VMEXIT, describe_info, exit_name
from harness.svm.vmcb import Vmcb, describe
from harness.svm.vmcb import field as vmcb_field

INVALID_LOW = 0xFFFF_FFFF
LOW_HALF = 0xFFFF_FFFF

_SHORT = {"code": "exitcode", "info1": "exitinfo1", "info2": "exitinfo2", "intinfo": "exitintinfo"}


def _not_captured() -> dict[str, int]:
    raise LookupError("L1's state was not captured at this VMRUN")


@dataclass(frozen=True)
class Exit:
    """One VMRUN's outcome: the VMCB before and after, registers, and what happened to L1 meanwhile."""

    before: Vmcb
    vmcb: Vmcb
    answer: VmrunAnswer
    loaded: Mapping[str, int]
    memory: Mapping[str, bytes] = field(default_factory=dict)
    teardown: CodeResult | None = None
    vmsaved: bool = False
    l1: CodeResult | None = None  # the L1 code that made VMRUN itself (guest.run_in)
    labels: Mapping[str, int] = field(default_factory=dict)  # of L2's code
    host_at_vmrun: Callable[[], Mapping[str, int]] = _not_captured
    vmcb_known: bool = True  # `before` is what VMRUN read: its operand, which nobody wrote meanwhile

    @property
    def code(self) -> int:
        """EXITCODE, 64 bits."""
        return self.vmcb["exitcode"]

    @property
    def info1(self) -> int:
        """EXITINFO1."""
        return self.vmcb["exitinfo1"]

    @property
    def info2(self) -> int:
        """EXITINFO2."""
        return self.vmcb["exitinfo2"]

    @property
    def rip(self) -> int:
        """The guest RIP that #VMEXIT saved."""
        return self.vmcb["rip"]

    @property
    def events(self) -> list[Fault]:
        """The exceptions and interrupts that L1 took around this VMRUN."""
        return self.answer.events

    @property
    def host_changes(self) -> dict[str, tuple[int, int]]:
        """Host state that differs: name -> (before VMRUN, right after #VMEXIT)."""
        return self.answer.host_changes

    @cached_property
    def host(self) -> HostState:
        """L1's state right after #VMEXIT, whole: `exit.host["CR3"]`, MSRs by name or number; `exit.host.before` is that
        at VMRUN. The executor is asked for it once.

        Raises LookupError if it was not captured, or is one of too many VMRUNs ago. See HostState for KeyError.
        """
        return HostState(self.host_at_vmrun(), self.host_changes)

    @property
    def regs(self) -> dict[str, int]:
        """All GPRs at the exit; RAX and RSP from the VMCB."""
        values = {name: self.loaded.get(name, GPR_FILL + number) for number, name in enumerate(GPR_NAMES)}
        values |= self.answer.registers
        return values | {"rax": self.vmcb["rax"], "rsp": self.vmcb["rsp"]}

    @property
    def msr(self) -> int:
        """EDX:EAX at the exit: what RDMSR gave, or RDTSC, RDPMC or XGETBV (see harness.guest.snippets.read_msr)."""
        return (self.regs["rdx"] & LOW_HALF) << 32 | self.regs["rax"] & LOW_HALF

    @property
    def by_watchdog(self) -> bool:
        """Whether the executor's watchdog ended L2."""
        return bool(self.answer.result & VmrunResult.WATCHDOG) and self.code == VMEXIT.INTR

    @property
    def fault(self) -> Fault | None:
        """The exception that VMRUN itself raised in L1, if it did."""
        if not self.answer.result & VmrunResult.FAULTED:
            return None
        return next((event for event in self.events if event.phase is Phase.VMRUN), None)

    def summary(self) -> str:
        """The outcome in one line."""
        if self.fault:
            return f"VMRUN raised {fault_text(self.fault)} in L1"
        name = "VMEXIT_INVALID" if self.code & INVALID_LOW == INVALID_LOW else exit_name(self.code)
        watchdog = ", ended by the watchdog" if self.answer.result & VmrunResult.WATCHDOG else ""
        return f"{name} at RIP {hexadecimal(self.rip, 16)}{watchdog}"

    @property
    def is_invalid(self) -> Match:
        """True if VMRUN ended in VMEXIT_INVALID without running L2.

        Only the low 32 bits of EXITCODE are asked here: that all 64 are ones is core.checks.exitcode_is_64_bit's to
        say,
        so that one deviation is reported once.
        """
        rows = [
            self._not_faulted(),
            compare("EXITCODE[31:0]", INVALID_LOW, self.code & INVALID_LOW, width_bytes=4, describe=_say_code),
        ]
        return stated(f"VMEXIT_INVALID was expected; {self.summary()}", rows, self)

    @property
    def ran(self) -> Match:
        """True if L2 was entered: VMRUN neither faulted nor ended in VMEXIT_INVALID."""
        invalid = self.code & INVALID_LOW == INVALID_LOW
        row = Row(
            "EXITCODE", "any exit but VMEXIT_INVALID", hexadecimal(self.code, 16), exit_name(self.code), not invalid,
            Wanted((INVALID_LOW,), INVALID_LOW, 8, negated=True),
        )  # fmt: skip
        return stated(f"L2 was expected to run; {self.summary()}", [self._not_faulted(), row], self)

    def vmrun_faults(self, vector: str | int, error: int | None = None) -> Match:
        """True if VMRUN itself raised that exception in L1, with that error code (None: it pushes none)."""
        return fault_match(
            f"{_exception(vector)} from VMRUN in L1 was expected; {self.summary()}", self.fault, vector, error, of=self
        )

    def reached(self, label: str, **fields: Any) -> Match:
        """True if L2 got to the VMMCALL at this label of its code, and the rest is as `matches` has it.

        Raises KeyError for a label that the code does not have.
        """
        if label not in self.labels:
            raise KeyError(f"L2's code has no label {label!r}{nearest(label, self.labels)}")
        return self.matches(code=VMEXIT.VMMCALL, rip=self.labels[label], **fields)

    def matches(
        self,
        *,
        regs: Mapping[str, Expected] | None = None,
        host: Mapping[str, Expected] | Mapping[int, Expected] | Mapping[str | int, Expected] | None = None,
        fields: Mapping[str, Expected] | None = None,
        **named: Expected,
    ) -> Match:
        """Compares VMCB fields (by name; `code`, `info1`, `info2`, `intinfo` are short for the exit fields),
        registers and host state.

        `host` compares the value right after #VMEXIT; its names are those of `exit.host`. Raises KeyError, with the
        nearest name, for one that does not exist.
        """
        rows = [self._not_faulted()]
        wanted = {_SHORT.get(name, name).replace("__", "."): value for name, value in named.items()} | dict(
            fields or {}
        )
        for name, expected in wanted.items():
            width = (vmcb_field(name).bit_width + 7) // 8
            rows.append(
                compare(
                    name,
                    expected,
                    self.vmcb[name],
                    width_bytes=width,
                    before=self.before[name],
                    describe=self._describe,
                )
            )
        for name, expected in (regs or {}).items():
            if name not in GPR_NUMBER:
                raise KeyError(f"no such register: {name!r}{nearest(name, GPR_NUMBER)}")
            at_entry = self.loaded.get(name, GPR_FILL + GPR_NUMBER[name])
            got, width = self.regs[name], 8
            halves = isinstance(expected, int) or expected is unchanged
            if halves and GPR_NUMBER[name] < 8 and not self._in_64_bit_mode:
                # The upper halves are undefined once a CPU has left 64-bit mode (APM volume 1, 3.1.2).
                at_entry, got, width = at_entry & LOW_HALF, got & LOW_HALF, 4
                expected = expected & LOW_HALF if isinstance(expected, int) else expected
            rows.append(compare(name.upper(), expected, got, width_bytes=width, before=at_entry))
        for item, expected in (host or {}).items():
            name = host_item(item)
            after, before = self.host[item], self.host.before[name]
            rows.append(compare(f"L1's {name}", expected, after, width_bytes=8, before=before))
        return stated(f"after {self.summary()}", rows, self)

    @property
    def _in_64_bit_mode(self) -> bool:
        """Whether L2 was in 64-bit mode at the exit: EFER.LMA and CS.L."""
        return bool(self.vmcb["efer"] >> 10 & 1 and self.vmcb["cs.attrib"] >> 9 & 1)

    def _describe(self, name: str, value: int) -> str:
        if name == "exitcode":
            return _say_code(name, value)
        if name in ("exitinfo1", "exitinfo2"):
            return describe_info(self.code, int(name[-1]), value)
        return describe(name, value)

    def _not_faulted(self) -> Row:
        got = f"raised {fault_text(self.fault)} in L1" if self.fault else "ended in #VMEXIT"
        around = self.l1.fault if self.l1 is not None and self.fault is None else None
        if around is not None:
            got = f"the L1 code around it raised {fault_text(around)}"
        return Row("VMRUN", "ends in #VMEXIT", got, "", self.fault is None and around is None, NO_FAULT)


def _say_code(_name: str, value: int) -> str:
    return "VMEXIT_INVALID" if value & INVALID_LOW == INVALID_LOW else exit_name(value)


def _exception(vector: str | int) -> str:
    return vector if isinstance(vector, str) else vector_name(vector)
