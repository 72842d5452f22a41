"""Where the clone is, and where nsvm keeps what it makes: below `.nsvm` and `runs` of the clone, or, for a clone that
cannot be written to or is shared, below `$NSVM_HOME`.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_GIVEN = os.environ.get("NSVM_HOME", "")


def state_of(root: Path) -> Path:
    """What is kept for the clone `root`: environments, caches, logs."""
    return Path(_GIVEN).expanduser().absolute() if _GIVEN else root / ".nsvm"


def build_of(program: str) -> Path:
    """Where a program of guest_payloads/ is built."""
    return STATE / "build" / program if _GIVEN else ROOT / "guest_payloads" / program / "build"


STATE = state_of(ROOT)
RUNS = STATE / "runs" if _GIVEN else ROOT / "runs"
