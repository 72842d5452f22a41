"""Where the clone and its own files are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".nsvm"
LOG = STATE / "log"
