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

if TYPE_CHECKING:
    from harness.judge.clauses import clause

__all__ = [
    "L1", "VMEXIT", "AnyOf", "CodeResult", "Exit", "Guest", "Masked", "Match", "MsrResult", "NotOffered", "TargetLost",
    "Vmcb", "any_of", "clause", "masked", "read_msr", "sign_extended", "unchanged", "unwritten", "write_msr", "written",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`clause` marks a test for pytest, and is the only thing here that needs it: L1 and L2 can be used without."""
    if name == "clause":
        from harness.judge.clauses import clause

        return clause
    raise AttributeError(name)
