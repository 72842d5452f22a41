"""What pytest refuses in an xdist worker, a wrong path or `-k`, is for the process that owns the run to say."""

from __future__ import annotations

from collections.abc import Generator

import pytest

USAGE = "nsvm_usage"
"""Under which name a worker's last words hold it."""


class Refusals:
    """In a worker: keeps the complaint, and has nothing collected, so that every worker ends as xdist expects."""

    def __init__(self, config: pytest.Config) -> None:
        self._output: dict[str, object] = config.workeroutput  # type: ignore[attr-defined]

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Paths and test ids."""
        try:
            return (yield)
        except pytest.UsageError as error:
            self._keep(error)
            return None

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """`-k` and `-m`."""
        try:
            yield
        except pytest.UsageError as error:
            self._keep(error)
            items.clear()

    def _keep(self, error: pytest.UsageError) -> None:
        self._output[USAGE] = "; ".join(str(line) for line in error.args)
