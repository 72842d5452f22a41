"""A pytest plugin (`-p harness.bench.cpu_probe`): each process of a run leaves its own CPU seconds, without its
children's, in a folder.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

FOLDER = "NSVM_BENCH_CPU"


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last thing a process does."""
    folder = os.environ.get(FOLDER)
    if folder:
        Path(folder, str(os.getpid())).write_text(str(time.process_time()))
