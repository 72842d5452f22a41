"""What a suite imports from `harness` is loaded at its first use, so that a command does not load pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness import public

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", public.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(harness, name) is getattr(public, name)


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'clauze'"):
        _ = harness.clauze


def test_the_run_command_does_without_pytest_and_templates() -> None:
    program = "import sys; from harness import command; command.build_parser('run'); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"pytest", "jinja2", "paramiko"} & set(ran.stdout.split())
