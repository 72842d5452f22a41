"""branches.c, the judge of branch records that runs in Linux on the machine, is a program that compiles."""

import shutil
import subprocess
from pathlib import Path

import pytest

JUDGE = Path(__file__).parent / "branches.c"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")
def test_compiles_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "branches"), str(JUDGE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
