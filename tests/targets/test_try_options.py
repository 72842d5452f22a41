"""A misspelt CPU model is a mistake of the user's: told in a line before anything runs, not by 4,600 tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.machine.base import TargetError, TargetOptions, Tried
from harness.run.worker import Settings, SetupError, check_setup
from harness.targets.qemu import QemuTcg

REFUSES = "#!/bin/sh\necho noise >&2\necho \"qemu: unable to find CPU model 'mxa'\" >&2\nexit 1\n"


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "qemu"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def target(tmp_path: Path, text: str, **more: object) -> QemuTcg:
    elf = tmp_path / "executor.elf"
    options = TargetOptions(tmp_path, elf, elf, qemu_path=program(tmp_path, text), **more)  # type: ignore[arg-type]
    return QemuTcg(options)


def test_what_qemu_refuses_is_its_own_last_line(tmp_path: Path) -> None:
    made = target(tmp_path, REFUSES, cpu_model="mxa")

    assert isinstance(made, Tried)
    with pytest.raises(TargetError, match="does not start with -cpu mxa: qemu: unable to find CPU model 'mxa'"):
        made.try_options()


def test_a_copy_without_its_firmware_is_told_what_it_lacks(tmp_path: Path) -> None:
    """A program that was copied out of the folder it was built in."""
    complaint = "echo \"qemu: could not load PC BIOS 'bios-256k.bin'\" >&2\nexit 1\n"
    made = target(tmp_path, f"#!/bin/sh\n{complaint}")

    with pytest.raises(TargetError, match=r"qemu has no firmware \(bios-256k.bin\): .*share/qemu.*copy that folder"):
        made.try_options()


def test_a_model_that_qemu_takes_is_no_news_and_it_is_told_to_end(tmp_path: Path) -> None:
    target(tmp_path, '#!/bin/sh\nread word\n[ "$word" = quit ]\n', cpu_model="max").try_options()


def test_a_run_with_it_does_not_begin(tmp_path: Path) -> None:
    settings = Settings(target="qemu-tcg", out=tmp_path, qemu=program(tmp_path, REFUSES), cpu="mxa")

    with pytest.raises(SetupError, match="unable to find CPU model 'mxa'"):
        check_setup(settings)
