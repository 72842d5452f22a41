"""Runs tests on a pretended machine and writes down what they set and ask: `pytest --nsvm-show FILE`.

Every comparison is taken to hold, so that a test goes on to its end; a test that looks at an answer in another way may
end early, and what it set until then is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest

from harness.anatomy.page import page
from harness.guest.l1 import L1
from harness.guest.needs import NotOffered
from harness.judge.clauses import Clause, load_clauses
from harness.judge.comparisons import Place
from harness.judge.expect import Match
from harness.judge.noting import listening, note_asked
from harness.run.collection import clauses_of
from harness.run.pretend import Enough, PretendSession
from harness.scenario.asm import Assembler, AssemblyError
from harness.svm import Cpuid, make_cpuid
from harness.svm.condition import features_of
from harness.svm.features import FEATURES

ROWS_MAX = 400
FEATURES_LEFT_OUT = ("HYPERVISOR", "EferLmsleUnsupported", "SME", "SEV", "SEV-ES", "SEV-SNP", "VTE", "LA57")
"""Not offered unless a clause asks for it: what no L1 of ours sees, or what takes something away."""
FLIPPED_MAX = 8


@dataclass
class _Asked:
    """Hears what a test asks of the answers."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    """Name and what is expected, of each row in order."""

    def note_made(self, match: Match, frame: FrameType | None) -> None:
        """Only what is asked counts."""

    def note_asked(self, match: Match, held: bool, frame: FrameType | None) -> None:
        """A comparison was asked."""
        self.rows += [(row.name, row.expected) for row in match.rows][: ROWS_MAX - len(self.rows)]


class Showing:
    """The part of the plugin that shows tests; registered where --nsvm-show is given."""

    def __init__(self, config: pytest.Config) -> None:
        self._out = Path(config.option.nsvm_show)
        self._clauses = load_clauses(config.rootpath / "suites")
        self._assembler = Assembler(config.rootpath / ".nsvm" / "cache" / "asm")
        self._out.write_text("")

    def l1(self, item: pytest.Item) -> L1:
        """An L1 on a pretended CPU that offers what the test's clauses ask for."""
        stated = [self._clauses[name] for name in clauses_of(item) if name in self._clauses]
        return L1(PretendSession(cpuid_for(stated)), self._assembler, {})

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Calls the test's function, and writes a line about it, however it ends."""
        l1 = pyfuncitem.funcargs.get("l1")
        if not isinstance(l1, L1):
            return None
        asked = _Asked()
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        ended = ""
        with listening(asked), patch.object(Match, "__bool__", _holds):
            try:
                pyfuncitem.obj(**arguments)
            except (NotOffered, pytest.skip.Exception) as skipped:
                ended = f"the test skips itself on the pretended machine: {skipped}"
            except AssertionError as error:
                ended = f"shown until an assert that the pretended machine does not satisfy: {_where(error)}"
            except (Enough, AssemblyError, MemoryError) as error:
                ended = f"shown until {type(error).__name__}: {error}"
            except Exception as error:
                ended = f"shown until {type(error).__name__} at {_where(error)}: {str(error)[:200]}"
        told = {
            "test": pyfuncitem.nodeid,
            "clauses": clauses_of(pyfuncitem),
            "page": page(list(l1.asked)),
            "expected": asked.rows,
            "ended": ended,
        }
        with self._out.open("a") as out:
            out.write(json.dumps(told) + "\n")
        return True


def cpuid_for(clauses: Sequence[Clause]) -> Cpuid:
    """A CPU with every feature but for the fewest that must be otherwise for the clauses' conditions to hold, or for
    as many of them as can hold together.
    """
    usual = {name for name, item in FEATURES.items() if item.infer is None and name not in FEATURES_LEFT_OUT}
    conditions = [one.condition for one in clauses]
    named = sorted({name for each in conditions for name in features_of(each)})[:FLIPPED_MAX]
    free = [name for name in named if FEATURES[name].infer is None]
    tried = (usual ^ set(flipped) for count in range(len(free) + 1) for flipped in combinations(free, count))
    return _with(max(tried, key=lambda offered: _holding(conditions, offered)))


def _with(offered: Iterable[str]) -> Cpuid:
    return make_cpuid(sorted(offered), basics=False)


def _holding(conditions: Sequence[str], offered: Iterable[str]) -> int:
    cpuid = _with(offered)
    return sum(cpuid.evaluate_condition(each)[0] for each in conditions)


def _holds(match: Match) -> bool:
    match.asked = True
    note_asked(match, True)
    return True


def _where(error: BaseException) -> str:
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return Place(trace.tb_frame.f_code.co_filename, trace.tb_lineno).below(Path.cwd()) if trace is not None else "?"
