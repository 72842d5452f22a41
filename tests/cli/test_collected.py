"""The list of tests is kept until a file changes, and a cache that is damaged or cannot be written does no harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import collected


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    times: list[int] = []

    def collect() -> list[dict[str, str]]:
        times.append(1)
        return [{"test": "a"}]

    monkeypatch.setattr(collected, "collect", collect)
    monkeypatch.setattr(collected, "ROOT", tmp_path)
    monkeypatch.setattr(collected, "_CACHE", tmp_path / "cache" / "tests.json")
    (tmp_path / "suites").mkdir()
    return times


def test_pytest_is_asked_again_when_a_file_changed(tmp_path: Path, asked: list[int]) -> None:
    assert collected.collected() == [{"test": "a"}] == collected.collected()
    assert len(asked) == 1

    (tmp_path / "suites" / "test_new.py").write_text("")
    collected.collected()
    assert len(asked) == 2


def test_a_damaged_cache_is_made_again(tmp_path: Path, asked: list[int]) -> None:
    for damaged in ("", "[]", "{", '{"key": 1}', "\x00"):
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache" / "tests.json").write_text(damaged)
        assert collected.collected() == [{"test": "a"}]
    assert len(asked) == 5
