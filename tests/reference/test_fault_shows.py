"""A fault that the machine is told to have is one that a guest sees, and a test of the suites."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.record import load

ROOT = Path(__file__).resolve().parents[2]
CHOICE = "test_asid_zero_is_refused and real16"

pytestmark = pytest.mark.emulator


@pytest.mark.parametrize(("fault", "status", "news"), [((), 0, "ok"), (("--fault", "check-asid-0-taken"), 1, "new")])
def test_vmrun_that_takes_asid_0_is_noticed(tmp_path: Path, fault: tuple[str, ...], status: int, news: str) -> None:
    words = ["run", "--target", "reference", "-k", CHOICE, "-n", "0", "--out", str(tmp_path / "out"), "--no-install"]
    done = subprocess.run(
        [str(ROOT / "nsvm"), *words, *fault, "suites/core"],
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )

    assert done.returncode == status, done.stdout + done.stderr
    run = load(tmp_path / "out" / "run.jsonl")
    assert {result.news for result in run.results} == {news}
    assert list(run.scopes["reference"].options) == ([" ".join(fault)] if fault else [])
