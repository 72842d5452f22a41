"""A test as a reproducer has it, and the file in which pytest hands it on."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.export.check import Check, Source
from harness.judge.expect import Wanted


@dataclass
class Captured:
    """`requests` are encoded lists of steps, the first one what every boot begins with. `left_out` says what the test
    compares that the payload cannot, `page` what it sets, `verdict` how it ended on the target. `hides`: what
    deviates there is left out.
    """

    test: str
    clauses: Sequence[str]
    requests: list[bytes]
    checks: list[Check] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    page: Sequence[str] = ()
    verdict: str = ""
    reason: str = ""
    machine: str = ""
    hides: bool = False

    def write(self, path: Path) -> None:
        """Writes the file."""
        told = asdict(self) | {
            "requests": [base64.b64encode(each).decode() for each in self.requests],
            "checks": [asdict(check) for check in self.checks],
        }
        path.write_text(json.dumps(told))

    @classmethod
    def read(cls, path: Path) -> Captured:
        """Reads one. Raises OSError, ValueError."""
        told = json.loads(path.read_text())
        told["requests"] = [base64.b64decode(each) for each in told["requests"]]
        told["checks"] = [_check(each) for each in told["checks"]]
        return cls(**told)


def _check(told: dict[str, Any]) -> Check:
    wanted = Wanted(**told["wanted"] | {"values": tuple(told["wanted"]["values"])})
    return Check(**told | {"source": Source(told["source"]), "wanted": wanted})
