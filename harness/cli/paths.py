"""Where the clone and its own files are."""

from __future__ import annotations

from harness.home import ROOT, RUNS, STATE

__all__ = ["LOG", "ROOT", "RUNS", "STATE"]

LOG = STATE / "log"
