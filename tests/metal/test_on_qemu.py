"""Whole runs on a machine of the lab that is a QEMU: booted over its network card, driven, and left with its own OS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.record import load
from tests.metal.lab import Lab
from tests.metal.qemu import Qemu, disk, pxe

ROOT = Path(__file__).resolve().parents[2]
CHOICE = "test_asid_zero_is_refused and real16"

pytestmark = pytest.mark.emulator


def nsvm(tmp_path: Path, lab_file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "lab.toml").write_text(lab_file)
    return subprocess.run(
        [str(ROOT / "nsvm"), *arguments, "--no-install"],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NSVM_LAB": str(tmp_path / "lab.toml"), "NSVM_LEASES": str(tmp_path / "leases")},
    )


def test_a_run_over_pxe(tmp_path: Path) -> None:
    folder = tmp_path / "tftp"
    folder.mkdir()
    machine = Qemu(pxe(folder, disk(tmp_path)))
    with Lab(machine, on=True) as lab:
        boot = f'driver = "files"\nfolder = "{folder}"'
        done = nsvm(
            tmp_path, lab.toml(boot, patience_s=150.0), "run", "--target", "metal:one", "suites/core", "-k", CHOICE,
            "--out", str(tmp_path / "out"),
        )  # fmt: skip
        run = load(tmp_path / "out" / "run.jsonl")

        assert done.returncode in (0, 1), done.stdout + done.stderr
        assert {result.verdict for result in run.results} <= {"PASS", "FAIL"}
        assert len(run.results) >= 2
        assert machine.boots == 2  # the second one is ours, and resets itself into its own OS
        assert lab.power[:2] == ["off", "on"]
        assert not list(folder.iterdir())
        assert lab.tail.endswith(b"one login: ")
