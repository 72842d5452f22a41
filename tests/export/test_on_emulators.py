"""A reproducer boots, and its last line is the verdict: of a test that passes, of one that deviates, from an ISO image,
and where the machine does not offer what it is about. Made again it is the same, byte for byte.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import one_test
from harness.command import main
from harness.machine.base import Target, TargetOptions
from harness.targets import bochs, create

pytestmark = pytest.mark.emulator
PASSES = "suites/core/test_checks_control.py::test_asid_zero_is_refused[long64-keep_tlb]"
DEVIATES = "suites/core/test_checks_maps.py::test_iopm_bit_is_found_with_low_bits_set[001]"  # in QEMU's TCG
DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def two_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_test, "collected", lambda: [{"test": PASSES}, {"test": DEVIATES}])


def options(folder: Path, image: Path) -> TargetOptions:
    return TargetOptions(folder, image, folder / "no-disk")


def printed(target: Target) -> list[str]:
    """The lines of the console, until the verdict."""
    console = target.start()
    text = b""
    end = time.monotonic() + DEADLINE_S
    try:
        while not (b"Test result: " in text and text.endswith(b"\n")):
            assert time.monotonic() < end, text
            text += console.read(1.0)
    finally:
        target.stop()
    return text.decode("ascii", "replace").replace("\r", "").splitlines()


def test_one_that_passes_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["export", PASSES, "--no-iso", "-o", str(tmp_path / name)]) == 0

    lines = printed(create("qemu-tcg", options(tmp_path, tmp_path / "a" / "reproducer.elf")))

    assert lines[-1] == "Test result: SUCCESS"
    assert any("core.checks.asid_zero" in line for line in lines)
    assert "  ok   EXITCODE[31:0]" in lines
    for file in ("reproducer.elf", "README.txt"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.skipif(not shutil.which("grub-mkrescue") or not shutil.which("mformat"), reason="needs GRUB and mtools")
def test_one_that_deviates_here_and_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["export", DEVIATES, "-o", str(tmp_path)]) == 0

    lines = printed(create("qemu-tcg", options(tmp_path, tmp_path / "reproducer.elf")))

    assert lines[-1] == "Test result: FAILURE"
    assert any(line.startswith("  FAIL exitcode (070h): expected") for line in lines)

    # Bochs finds the bit. It boots the ISO image, by GRUB.
    made = bochs.configuration

    def from_cd(given: TargetOptions, disk: Path, terminal: str) -> str:
        text = made(given, disk, terminal)
        text = text.replace(
            f"type=disk, path={disk}, mode=flat", f"type=cdrom, path={tmp_path}/reproducer.iso, status=inserted"
        )
        return text.replace("boot: disk", "boot: cdrom")

    monkeypatch.setattr(bochs, "configuration", from_cd)
    disk = tmp_path / "any"
    disk.write_bytes(bytes(512))
    target = create("bochs", replace(options(tmp_path, tmp_path / "reproducer.elf"), disk_image=disk))
    assert printed(target)[-1] == "Test result: SUCCESS"
