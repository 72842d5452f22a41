"""Code that L1 itself runs, and what it left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.judge.expect import Match, Row, compare, stated
from harness.judge.fault import NO_FAULT, fault_match, fault_text
from harness.scenario import places
from harness.scenario.asm import Assembled
from harness.scenario.steps import CodeAnswer, Fault
from harness.svm.events import vector_name

USER_TAIL = "nsvm_user_end"


@dataclass(frozen=True)
class CodeResult:
    """One blob's outcome. `regs` holds every register that was loaded or changed."""

    answer: CodeAnswer
    assembled: Assembled
    loaded: Mapping[str, int]
    tail: str | None = None  # a label whose #UD means that the code came to its end (CPL 3)
    taken: list[Fault] = field(default_factory=list)  # what the code's own handlers took, in order

    def __getitem__(self, label: str) -> int:
        return self.assembled.labels[label]

    @property
    def fault(self) -> Fault | None:
        """The exception that ended the code; None if it ran to its end."""
        fault = self.answer.fault
        if fault and self.tail and fault.vector == 6 and fault.rip == self[self.tail]:
            return None
        return fault

    @property
    def events(self) -> list[Fault]:
        """#DB, #BP, NMI and interrupts taken while it ran."""
        return self.answer.events

    @property
    def rflags(self) -> int:
        """RFLAGS at its end."""
        return self.answer.rflags

    @property
    def regs(self) -> dict[str, int]:
        """The registers that were loaded or changed, as they were at its end."""
        return dict(self.loaded) | self.answer.registers

    def reg(self, name: str) -> int:
        """One register at the end; one that was never loaded nor changed is zero."""
        return self.regs.get(name, 0)

    def faults(self, vector: str | int, error: int | None = None, *, at: str | None = None) -> Match:
        """True if the code was ended by that exception, with that error code (None: none is pushed), at that label."""
        rip = self[at] if at else None
        name = vector if isinstance(vector, str) else vector_name(vector)
        return fault_match(f"{name} in L1 was expected; {fault_text(self.fault)}", self.fault, vector, error, rip, self)

    @property
    def returned(self) -> Match:
        """True if the code ran to its end."""
        row = Row("exception", "none", fault_text(self.fault), "", self.fault is None, NO_FAULT)
        return stated(f"L1's code was expected to run to its end; {fault_text(self.fault)}", [row], self)


@dataclass(frozen=True)
class MsrResult:
    """What RDMSR or WRMSR did. `value` is None after WRMSR and after a fault."""

    name: str
    value: int | None
    fault: Fault | None

    @property
    def ok(self) -> Match:
        """True if it did not fault."""
        return stated(self.name, [self._not_faulted()], self)

    def reads(self, expected: int) -> Match:
        """True if it did not fault and read that value."""
        rows = [self._not_faulted()]
        if self.value is not None:
            rows.append(compare("value", expected, self.value, width_bytes=8))
        return stated(self.name, rows, self)

    def faults(self, vector: str | int, error: int | None = None) -> Match:
        """True if it raised that exception."""
        return fault_match(self.name, self.fault, vector, error, of=self)

    def _not_faulted(self) -> Row:
        return Row("exception", "none", fault_text(self.fault), "", self.fault is None, NO_FAULT)


def user_text(code: str) -> str:
    """`code` run at CPL 3: entered by IRETQ with IF=0, ended by UD2."""
    return (
        f"push 0x2b\npush {places.USER_STACK_TOP}\npush 2\npush 0x33\npush offset nsvm_user_start\niretq\n"
        f"nsvm_user_start:\n{code}\n{USER_TAIL}: ud2\n"
    )
