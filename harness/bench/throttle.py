"""A pytest plugin (`-p harness.bench.throttle`): the run's targets get a link of so many baud. For measuring only."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from harness import targets, worker
from harness.targets.base import Target, TargetOptions

BAUD = "NSVM_BENCH_BAUD"


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Before the worker makes its target."""
    baud = int(os.environ[BAUD])

    def create(name: str, options: TargetOptions) -> Target:
        return targets.create(name, replace(options, throttle_baud=baud))

    vars(worker)["create"] = create
