"""The public face of the harness: what a suite may import, with harness.svm and harness.scenario."""

from typing import TYPE_CHECKING, Any

from harness.guest.guest import Guest
from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.guest.snippets import read_msr, write_msr
from harness.judge.code import CodeResult, MsrResult
from harness.judge.exit import Exit
from harness.judge.expect import AnyOf, Masked, Match, any_of, masked, sign_extended, unchanged, unwritten, written
from harness.link.session import TargetLost
from harness.svm import VMEXIT, Vmcb
from harness.svm.names import (
    AC,
    BP,
    BR,
    CP,
    CR0,
    CR4,
    DB,
    DE,
    DF,
    DR6,
    DR7,
    EFER,
    GP,
    HV,
    MC,
    MF,
    NM,
    NMI,
    OF,
    PF,
    RFLAGS,
    SS,
    SX,
    TS,
    UD,
    VC,
    XF,
    Vector,
)  # fmt: skip

if TYPE_CHECKING:
    from harness.judge.cases import cases
    from harness.judge.clauses import clause

__all__ = [
    "AC", "BP", "BR", "CP", "CR0", "CR4", "DB", "DE", "DF", "DR6", "DR7", "EFER", "GP", "HV", "L1", "MC", "MF", "NM",
    "NMI", "OF", "PF", "RFLAGS", "SS", "SX", "TS", "UD", "VC", "VMEXIT", "XF", "AnyOf", "CodeResult", "Exit", "Guest",
    "Masked", "Match", "MsrResult", "NotOffered", "TargetLost", "Vector", "Vmcb", "any_of", "cases", "clause", "masked",
    "read_msr", "sign_extended", "unchanged", "unwritten", "write_msr", "written",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`clause` and `cases` mark a test for pytest, and nothing else here needs it: L1 and L2 can be used without."""
    if name == "clause":
        from harness.judge.clauses import clause

        return clause
    if name == "cases":
        from harness.judge.cases import cases

        return cases
    raise AttributeError(name)
