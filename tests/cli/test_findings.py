"""docs/findings.md is what the baselines say."""

from __future__ import annotations

import pytest

from harness.command import main


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["findings", "--check"]) == 0, capsys.readouterr().err
