"""What QEMU and the reference machine answered is judged without them, one against the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.trace.file import read_header
from tests.cli.test_on_emulators import nsvm

PART = ("suites/core/test_checks_control.py", "-k", "test_asid_zero_is_refused", "-n", "0")

pytestmark = pytest.mark.emulator


def test_recorded_on_two_machines_and_judged_without_them(tmp_path: Path) -> None:
    qemu, reference = tmp_path / "qemu.nsvmtrace", tmp_path / "reference.nsvmtrace"
    for path, target in ((qemu, "qemu-tcg"), (reference, "reference")):
        done = nsvm("record", "--target", target, "-o", str(path), *PART)
        assert done.returncode == 0, done.stderr
        header = read_header(path)
        assert (header.nature, header.target, header.vendor) == ("synthetic", target, "AuthenticAMD")
        assert header.firmware.startswith("SeaBIOS")
        assert header.witnesses["core.checks.asid_zero"][0] > 0

    done = nsvm("replay", str(reference), *PART, "--against", str(qemu), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout[done.stdout.index("[") :])
    assert "core.checks.asid_zero" in told[0]["agrees"]
    # QEMU 7.2 writes to the control area where it refuses VMRUN; its baseline says so.
    contradicted = [[one["clause"] for one in each["contradicted"]] for each in told]
    assert contradicted == [[], ["core.exit.control_area_untouched_when_invalid"]]
