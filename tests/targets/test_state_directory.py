"""Where what emulators are recognised by is kept: the user's own folder, whatever the environment says."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from harness.machine import process
from harness.machine.base import TargetError


def test_a_runtime_folder_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `su`, which leaves XDG_RUNTIME_DIR as it was. Root may write everywhere, so that it is pretended."""
    theirs, temporary = tmp_path / "theirs", tmp_path / "tmp"
    theirs.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(theirs))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(process.os, "access", lambda path, _mode: Path(path) != theirs)

    assert process.state_directory() == temporary / f"nsvm-{os.getuid()}"
    assert not list(theirs.iterdir())


def test_one_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"nsvm-{os.getuid()}").write_text("a file")

    with pytest.raises(TargetError, match=rf"nsvm-{os.getuid()} cannot be made: File exists"):
        process.state_directory()
