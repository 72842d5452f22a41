"""What `from harness import ...` gives a suite. Loaded at the first use: a command that runs no test goes without."""

from harness.guest.guest import Guest
from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.guest.snippets import read_msr, write_msr
from harness.judge.cases import cases
from harness.judge.clauses import clause
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

__all__ = [
    "AC", "BP", "BR", "CP", "CR0", "CR4", "DB", "DE", "DF", "DR6", "DR7", "EFER", "GP", "HV", "L1", "MC", "MF", "NM",
    "NMI", "OF", "PF", "RFLAGS", "SS", "SX", "TS", "UD", "VC", "VMEXIT", "XF", "AnyOf", "CodeResult", "Exit", "Guest",
    "Masked", "Match", "MsrResult", "NotOffered", "TargetLost", "Vector", "Vmcb", "any_of", "cases", "clause", "masked",
    "read_msr", "sign_extended", "unchanged", "unwritten", "write_msr", "written",
]  # fmt: skip
