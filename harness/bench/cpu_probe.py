"""A pytest plugin (`-p harness.bench.cpu_probe`): each process of a run leaves its own CPU seconds, without its
children's, in a folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

FOLDER = "NSVM_BENCH_CPU"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_unconfigure() -> Generator[None, object, object]:
    """When all else that ends a process of a run is done: the report that the conftest renders then counts, too."""
    try:
        return (yield)
    finally:
        folder = os.environ.get(FOLDER)
        if folder:
            Path(folder, str(os.getpid())).write_text(str(time.process_time()))
