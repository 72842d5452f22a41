"""What `from harness import ...` gives a suite. Loaded at the first use: a command that runs no test goes without."""

from harness.guest.guest import Guest
from harness.guest.l1 import L1
from harness.judge.clauses import clause
from harness.judge.code import CodeResult, MsrResult
from harness.judge.exit import Exit
from harness.judge.expect import AnyOf, Masked, Match, any_of, masked, sign_extended, unchanged, unwritten, written
from harness.link.session import TargetLost
from harness.svm import VMEXIT, Vmcb

__all__ = [
    "L1", "VMEXIT", "AnyOf", "CodeResult", "Exit", "Guest", "Masked", "Match", "MsrResult", "TargetLost", "Vmcb",
    "any_of", "clause", "masked", "sign_extended", "unchanged", "unwritten", "written",
]  # fmt: skip
