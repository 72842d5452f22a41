"""The model of L1 and L2 is a library: it can be used where there is no pytest."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROOMS = ("harness", "harness.guest.l1", "harness.scenario.asm", "harness.judge.universal", "harness.judge.verdict")


@pytest.mark.parametrize("room", ROOMS)
def test_it_is_imported_without_pytest(room):
    script = f"import sys; sys.modules['pytest'] = None; import {room}"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
