"""All tests with their clauses, as pytest collects them, kept until a file changes that could alter the list."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

from harness.cli.clauses import collect
from harness.cli.paths import ROOT, STATE

_CACHE = STATE / "cache" / "tests.json"


def collected() -> list[dict[str, Any]]:
    """As `harness.cli.clauses.collect`: `test` and `clauses` of each. Raises HarnessError."""
    key = _key()
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(_CACHE.read_text())
        if kept["key"] == key:
            return list(kept["tests"])
    tests = collect()
    with suppress(OSError):  # a cache that cannot be written costs time, not correctness
        _CACHE.parent.mkdir(parents=True, exist_ok=True)
        fresh = _CACHE.with_suffix(".new")
        fresh.write_text(json.dumps({"key": key, "tests": tests}))
        fresh.replace(_CACHE)
    return tests


def _key() -> str:
    """Of names, sizes and times of the files that a list of tests depends on."""
    files = sorted(path for folder in ("suites", "harness") for path in (ROOT / folder).rglob("*.py"))
    told = "".join(f"{path}\0{(stat := path.stat()).st_size}\0{stat.st_mtime_ns}\n" for path in files)
    return hashlib.sha256(told.encode()).hexdigest()
