"""The public face of the harness: what a suite may import, beside harness.svm, harness.steps and harness.places."""

from harness.clauses import clause
from harness.code import CodeResult, MsrResult
from harness.exit import Exit
from harness.expect import AnyOf, Masked, Match, any_of, masked, sign_extended, unchanged, unwritten, written
from harness.guest import Guest
from harness.l1 import L1
from harness.session import TargetLost
from harness.svm import VMEXIT, Vmcb

__all__ = [
    "L1", "VMEXIT", "AnyOf", "CodeResult", "Exit", "Guest", "Masked", "Match", "MsrResult", "TargetLost", "Vmcb",
    "any_of", "clause", "masked", "sign_extended", "unchanged", "unwritten", "written",
]  # fmt: skip
