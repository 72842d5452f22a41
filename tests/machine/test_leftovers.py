"""What a killed process leaves in /tmp is removed by the next one, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.machine.leftovers import CONTENT, OWNER, WorkFolder, remove_leftovers

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
sys.path.insert(0, {root!r})
from harness.machine.leftovers import WorkFolder
folder = WorkFolder("gw0")
(folder.path / "deep" / "er").mkdir(parents=True)
(folder.path / "deep" / "er" / "file").write_text("x")
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_is_gone_when_its_owner_is_done(tmp: Path) -> None:
    with WorkFolder("main") as folder:
        assert folder.parent == tmp
        assert folder.name.startswith("nsvm-main-")
        assert remove_leftovers() == []
    assert list(tmp.iterdir()) == []


def test_a_folder_is_left_alone_while_its_owner_lives_and_removed_when_it_was_killed(tmp: Path) -> None:
    code = HOLD.format(root=str(ROOT))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            folder = Path(owner.stdout.readline().strip())
            assert remove_leftovers() == []
            assert (folder / "deep" / "er" / "file").exists()
        finally:
            os.kill(owner.pid, signal.SIGKILL)
        owner.wait(10)

    with WorkFolder("gw0") as own:
        assert list(tmp.iterdir()) == [own]


def test_what_is_not_provably_ours_stays(tmp: Path) -> None:
    bare, foreign, loose, elsewhere = (tmp / f"nsvm-gw{n}-x" for n in range(4))
    for folder in (bare, foreign, loose):
        folder.mkdir(mode=0o700)
    (foreign / OWNER).write_text("somebody else's")
    (loose / OWNER).write_bytes(CONTENT)
    loose.chmod(0o777)
    (tmp / "real").mkdir()
    (tmp / "real" / OWNER).write_bytes(CONTENT)
    elsewhere.symlink_to(tmp / "real")
    (tmp / "nsvm-file-x").touch()

    assert remove_leftovers() == []
    assert {path.name for path in tmp.iterdir()} == {
        "nsvm-gw0-x", "nsvm-gw1-x", "nsvm-gw2-x", "nsvm-gw3-x", "nsvm-file-x", "real",
    }  # fmt: skip
    assert (tmp / "real" / OWNER).exists()
