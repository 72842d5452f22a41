"""The public face of the harness: what a suite may import, with harness.svm and harness.scenario."""

from harness.guest.guest import Guest
from harness.guest.l1 import L1
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
    "NMI", "OF", "PF", "RFLAGS", "SS", "SX", "TS", "UD", "VC", "VMEXIT", "XF", "AnyOf", "CodeResult", "Exit",
    "Guest", "Masked", "Match", "MsrResult", "TargetLost", "Vector", "Vmcb", "any_of", "cases", "clause", "masked",
    "sign_extended", "unchanged", "unwritten", "written",
]  # fmt: skip
