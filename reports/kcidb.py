"""The run as a KCIDB report, schema 5.3: what KernelCI takes. A test for each outcome, a build for each target.

KCIDB has no word for a crash or a hang: both are FAIL there, and keep theirs in `misc.verdict`, as does what the
baseline knows in `misc.news`.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any

from harness.summary import Outcome, Summary, TargetSummary
from harness.text import line

MAJOR, MINOR = 5, 3
_STATUS = {"PASS": "PASS", "FAIL": "FAIL", "CRASH": "FAIL", "HANG": "FAIL", "SKIP": "SKIP", "ERROR": "ERROR",
           "MISS": "MISS"}  # fmt: skip
_REASON_MAX = 400


def render_kcidb(summary: Summary, *, origin: str = "nsvm", build: str = "") -> str:
    """JSON. `origin`: who reports, in small letters. `build`: the id of a build that is known already, in place of one
    of our own for each target.
    """
    start = summary.run.start
    run = re.sub(r"[^A-Za-z0-9._-]", "_", start.run_id if start else "") or "unknown"
    started = _time(start.started if start else "")
    checkout = f"{origin}:nsvm-{run}"
    commit = (start.nsvm.commit if start else None) or ""
    builds = {target.name: build or f"{checkout}-{_plain(target.name)}" for target in summary.targets}
    report: dict[str, Any] = {"version": {"major": MAJOR, "minor": MINOR}}
    if not build:
        report["checkouts"] = [
            {
                "id": checkout,
                "origin": origin,
                "comment": "the suites of nsvm",
                **({"git_commit_hash": commit} if re.fullmatch(r"[0-9a-f]{40}", commit) else {}),
                **({"start_time": started} if started else {}),
                "valid": True,
            }
        ]
        report["builds"] = [
            {
                "id": builds[target.name],
                "checkout_id": checkout,
                "origin": origin,
                "comment": line(_version(target), 200),
                "architecture": "x86_64",
                "status": "PASS",
                "misc": {"target": line(target.name, 80), "part": line(target.part, 400)},
            }
            for target in summary.targets
        ]
    report["tests"] = [
        _test(outcome, builds[outcome.target], f"{origin}:{run}", origin, started) for outcome in summary.outcomes
    ]
    return json.dumps(report, indent=1, ensure_ascii=True) + "\n"


def _test(outcome: Outcome, build: str, prefix: str, origin: str, started: str) -> dict[str, Any]:
    result = outcome.result
    key = hashlib.sha256(f"{outcome.target}\0{outcome.test}".encode("utf-8", "backslashreplace")).hexdigest()[:24]
    reason = next((j.summary for j in outcome.judged if j.category == outcome.category), "") or result.reason
    misc = {
        "test": line(outcome.test, _REASON_MAX),
        "target": line(outcome.target, 80),
        "verdict": outcome.word,
        "news": outcome.news,
        "clauses": [line(clause, 160) for clause in dict.fromkeys(j.clause for j in outcome.judged)][:40],
        "reason": line(reason, _REASON_MAX),
        "again": line(result.rerun, _REASON_MAX),
    }
    return {
        "id": f"{prefix}-{key}",
        "build_id": build,
        "origin": origin,
        "path": path_of(outcome.test),
        "status": _STATUS[outcome.verdict],
        "duration": round(result.duration_s, 3),
        **({"start_time": started} if started else {}),
        "misc": {name: value for name, value in misc.items() if value},
    }


def path_of(test: str) -> str:
    """A node id as a path of KCIDB: `suites/np/test_x.py::test_y[a-b]` is `nsvm.np.test_x.test_y.a-b`."""
    file, _, name = test.partition("::")
    function, _, params = name.partition("[")
    parts = [*file.removeprefix("suites/").removesuffix(".py").split("/"), function, params.removesuffix("]")]
    return ".".join(["nsvm", *(_plain(part).replace(".", "_") for part in parts if part)])


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:160]


def _version(target: TargetSummary) -> str:
    return next((machine.info.version for machine in target.machines if machine.info.version), target.name)


def _time(text: str) -> str:
    """RFC 3339 with an offset, or nothing."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return when.isoformat(timespec="seconds") if when.tzinfo else ""
