"""The sums of `nsvm test`: whatever goes wrong counts as a failure, and the last line is the one that CI reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import machine, main, selfcheck, selftest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`nsvm test` with a tox that does what the file `tox/NAME` says (Python)."""
    folder = tmp_path / "tox"
    folder.mkdir()
    (folder / "tox.py").write_text(
        "import os, sys\n"
        "name = sys.argv[sys.argv.index('-e') + 1]\n"
        f"exec(open(os.path.join({str(folder)!r}, name)).read())\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {folder}/tox.py "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(selftest, "ensure_venv", lambda *_: python)
    monkeypatch.setattr(selftest, "ensure", lambda *_a, **_k: None)
    monkeypatch.setattr(selftest, "STATE", tmp_path)
    monkeypatch.setattr(selftest, "STOP_GRACE_S", 1)
    monkeypatch.setattr(machine, "build_executor", lambda **_k: None)
    for environment in selftest.ENVIRONMENTS:
        (folder / environment.name).write_text(COUNTS.format(2, 0, 0))
    return folder


COUNTS = "open(os.environ['NSVM_COUNTS'], 'w').write('{{\"passed\": {}, \"failed\": {}, \"skipped\": {}}}')\n"


def test_all_well(pretend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "8 passed, 0 failed"


@pytest.mark.parametrize(
    ("script", "closing"),
    [
        (COUNTS.format(5, 1, 2) + "sys.exit(1)", "11 passed, 1 failed, 2 skipped"),
        (COUNTS.format(5, 0, 0) + "sys.exit(1)", "11 passed, 1 failed"),
        ("sys.exit(0)", "6 passed, 1 failed"),
        ("open(os.environ['NSVM_COUNTS'], 'w').write('half')", "6 passed, 1 failed"),
        (COUNTS.format(5, 0, 0) + "import time; time.sleep(60)", "11 passed, 1 failed"),
    ],
    ids=["fails", "fails uncounted", "counts nothing", "torn counts", "hangs"],
)
def test_whatever_goes_wrong_fails(
    pretend: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, closing: str
) -> None:
    (pretend / "units").write_text(script)
    hasty = tuple(
        selftest.Environment(e.name, 2 if e.name == "units" else 60, e.builds, e.emulates)
        for e in selftest.ENVIRONMENTS
    )
    monkeypatch.setattr(selftest, "ENVIRONMENTS", hasty)

    assert main(["test"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == closing


def test_time_that_is_used_up_fails_what_is_left(
    pretend: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(selftest, "TOTAL_DEADLINE_S", 0)

    assert main(["test"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 4 failed"


def test_one_environment_alone_with_pytest_arguments(pretend: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pretend / "units").write_text(COUNTS.format(1, 0, 0) + "print(sys.argv[-3:])")

    assert main(["test", "--env", "units", "--", "-k", "cobs"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"


def test_the_suites_count_by_what_is_new(tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl"
    lines = [
        {"kind": "result", "test": "a", "verdict": "PASS", "news": "ok"},
        {"kind": "result", "test": "b", "verdict": "FAIL", "news": "known"},
        {"kind": "result", "test": "c", "verdict": "FAIL", "news": "new"},
        {"kind": "result", "test": "d", "verdict": "PASS", "news": "mended"},
        {"kind": "result", "test": "e", "verdict": "ERROR", "news": "ok"},
        {"kind": "result", "test": "f", "verdict": "SKIP", "news": "skipped"},
        {"kind": "result", "test": "g", "verdict": "MISS", "news": "ok"},
        {"kind": "result", "test": "g", "verdict": "PASS", "news": "ok"},
    ]
    record.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "resu')

    assert selfcheck._suite_counts(record) == (2, 4, 1)
    assert selfcheck._suite_counts(tmp_path / "missing") == (0, 1, 0)


def test_it_runs_with_the_standard_library_alone() -> None:

    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "harness" / "cli" / "selfcheck.py")],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_every_tox_environment_is_known() -> None:
    names = {environment.name for environment in selftest.ENVIRONMENTS}

    assert names == set(selfcheck.CHECKS)
    tox = (ROOT / "tox.ini").read_text()
    assert all(f"[testenv:{name}]" in tox for name in names)
