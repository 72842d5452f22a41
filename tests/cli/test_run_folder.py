"""Where a run is written, and the names of folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import run_folder
from harness.cli.console import UserError


def test_the_run_folder_is_new_unless_the_user_names_one_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "RUNS", tmp_path / "runs")
    first = run_folder.choose(None, ["qemu-tcg", "bochs"])
    first.mkdir(parents=True)

    assert first.parent == tmp_path / "runs"
    assert first.name.endswith("Z-qemu-tcg+bochs")
    assert run_folder.choose(None, ["qemu-tcg", "bochs"]) != first

    (tmp_path / "mine").mkdir()
    assert run_folder.choose(str(tmp_path / "mine"), ["bochs"]) == tmp_path / "mine"
    (tmp_path / "mine" / "run.jsonl").touch()
    with pytest.raises(UserError, match="there is a run in it already"):
        run_folder.choose(str(tmp_path / "mine"), ["bochs"])


def test_paths_and_test_ids_are_found_from_where_the_user_is_and_from_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "suites" / "core"
    suite.mkdir(parents=True)
    (suite / "test_x.py").touch()
    monkeypatch.setattr(run_folder, "ROOT", tmp_path)

    monkeypatch.chdir("/")
    assert run_folder.given_path("suites/core/test_x.py::test_a[b::c]") == "suites/core/test_x.py::test_a[b::c]"
    monkeypatch.chdir(suite)
    assert run_folder.given_path("test_x.py") == "suites/core/test_x.py"


def test_a_folder_of_our_naming_is_never_shared(tmp_path: Path) -> None:
    made = [run_folder.make(tmp_path / "runs" / "now-bochs", ours=True) for _ in range(2)]

    assert [folder.name for folder in made] == ["now-bochs", "now-bochs-2"]


def test_two_runs_into_one_folder_at_a_time_are_refused(tmp_path: Path) -> None:
    run_folder.make(tmp_path / "mine", ours=False)

    with pytest.raises(UserError, match="another run writes into it at this moment"):
        run_folder.make(tmp_path / "mine", ours=False)


@pytest.mark.parametrize(("tests", "judged"), [(3, True), (2, False)])
def test_only_a_run_that_judged_something_is_the_latest(tmp_path: Path, tests: int, judged: bool) -> None:
    counts = {"tests": tests, "skipped": 1, "without_verdict": 1}
    (tmp_path / "summary.json").write_text(json.dumps({"counts": counts}))

    assert run_folder.judged_something(tmp_path) is judged
    assert not run_folder.judged_something(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["repeat.json", "1/run.jsonl", "sim-kvm/run.jsonl"])
def test_a_folder_with_the_runs_of_a_repeat_or_of_a_target_is_not_free(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()

    with pytest.raises(UserError, match="there is a run in it already"):
        run_folder.choose(str(tmp_path), ["sim:kvm"])


def test_the_name_of_a_target_is_fit_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "RUNS", tmp_path / "runs")

    assert run_folder.choose(None, ["ssh://root@zen3:22/?l0=kvm", "sim:xen@4.20"]).parent == tmp_path / "runs"
