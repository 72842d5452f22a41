"""The pytest entry: loads the plugin, and renders the reports of a run that has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["harness.plugin"]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Writes junit.xml and index.html beside the record, in the process that owns the run."""
    out = config.option.nsvm_out
    if not out or hasattr(config, "workerinput") or not (Path(out) / "run.jsonl").exists():
        return
    from reports import render_all

    render_all(Path(out))
