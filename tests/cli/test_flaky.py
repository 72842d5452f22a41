"""The same thing several times: a test that does not say the same each time is named, with what it said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness import targets
from harness.cli import machine, pytest_process
from harness.command import main
from harness.record import End, Interrupted, Result, RunStart, TargetInfo, Writer, load
from harness.summary import Summary, flaky, summarise
from reports.flaky import flaky_text, render_flaky

ROOT = Path(__file__).resolve().parents[2]
PASS, FAIL, KNOWN = ("PASS", "ok"), ("FAIL", "new"), ("FAIL", "known")


def written(folder: Path, said: dict[str, tuple[str, str]], *, end: bool = True, version: str = "7.2") -> Path:
    """A run's folder with these verdicts."""
    folder.mkdir(parents=True)
    with Writer(folder / "run.jsonl") as writer:
        writer.write(RunStart(run_id="abc", started="2026-11-22T10:00:00+00:00"))
        writer.write(TargetInfo(target="fake", worker="gw0", version=version, boots=1))
        for test, (verdict, news) in said.items():
            writer.write(
                Result(
                    test=test, target="fake", verdict=verdict, news=news, clauses=["core.x"],
                    reason="" if verdict == "PASS" else f"{test} <b>did</b> otherwise",
                    rerun=f"./nsvm run --target fake '{test}'",
                )
            )  # fmt: skip
        if end:
            counts = {v: sum(v == verdict for verdict, _ in said.values()) for v in {v for v, _ in said.values()}}
            new, known = (sum(news == which for _, news in said.values()) for which in ("new", "known"))
            writer.write(
                End(finished="", duration_s=1.0, exit_status=int(new > 0), counts=counts, new=new, known=known)
            )
    return folder


def summaries(tmp_path: Path, *runs: dict[str, tuple[str, str]]) -> dict[str, Summary]:
    return {str(n): summarise(load(written(tmp_path / str(n), said) / "run.jsonl")) for n, said in enumerate(runs, 1)}


def test_runs_that_agree_are_steady(tmp_path: Path) -> None:
    found = flaky.compare_repeats(summaries(tmp_path, *[{"t::a": PASS, "t::b": KNOWN}] * 3))

    assert (found.tests, list(found.flaky)) == (2, [])
    assert found.sentence == "3 runs, 2 tests compared: the same verdicts in every run"
    assert flaky_text(found).endswith(found.sentence + "\n")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([PASS, PASS, FAIL, PASS], "PASS in runs 1-2, 4; FAIL (new) in run 3"),
        ([FAIL, PASS], "FAIL (new) in run 1; PASS in run 2"),
        ([KNOWN, FAIL], "FAIL (known) in run 1; FAIL (new) in run 2"),
        ([("SKIP", "skipped"), PASS], "SKIP in run 1; PASS in run 2"),
        ([("MISS", "ok"), PASS, PASS], "PASS in runs 2-3; MISS in run 1"),
    ],
)
def test_a_test_that_does_not_is_named_with_what_each_run_said(
    tmp_path: Path, said: Sequence[tuple[str, str]], told: str
) -> None:
    found = flaky.compare_repeats(summaries(tmp_path, *({"t::a": each, "t::steady": PASS} for each in said)))

    assert [(each.test, each.told) for each in found.flaky] == [("t::a", told)]
    assert "1 flaky" in found.sentence
    text = flaky_text(found)
    assert "flaky  t::a on fake" in text
    assert told in text
    assert f"again: ./nsvm run --repeat {len(said)} --target fake 't::a'" in text


def test_what_a_run_that_was_cut_short_did_not_come_to_does_not_differ(tmp_path: Path) -> None:
    whole = {"t::a": PASS, "t::b": PASS}
    records = [written(tmp_path / "1", whole), written(tmp_path / "2", {"t::a": PASS}, end=False)]

    found = flaky.compare_repeats({folder.name: summarise(load(folder / "run.jsonl")) for folder in records})

    assert not found.flaky
    assert list(found.notes) == ["2 was cut short: compared as far as it goes"]


def test_what_a_whole_run_does_not_hold_differs(tmp_path: Path) -> None:
    found = flaky.compare_repeats(summaries(tmp_path, {"t::a": PASS, "t::b": PASS}, {"t::a": PASS}))

    assert [each.told for each in found.flaky] == ["PASS in run 1; absent in run 2"]

    found = flaky.compare_repeats(dict(zip(found.names, found.summaries, strict=True)), same=False)
    assert (list(found.flaky), list(found.notes)) == ([], ["tests in one run only: 1"])


def test_an_interrupted_run_may_lack_tests(tmp_path: Path) -> None:
    first, second = written(tmp_path / "1", {"t::a": PASS, "t::b": PASS}), tmp_path / "2"
    written(second, {"t::a": PASS}, end=False)
    with Writer(second / "run.jsonl") as writer:
        writer.write(Interrupted(reason="SIGINT"))

    assert not flaky.compare_repeats({f.name: summarise(load(f / "run.jsonl")) for f in (first, second)}).flaky


@pytest.mark.parametrize(("numbers", "told"), [([1], "1"), ([1, 2, 3], "1-3"), ([1, 3, 4, 9], "1, 3-4, 9"), ([], "")])
def test_numbers_are_told_as_spans(numbers: list[int], told: str) -> None:
    assert flaky.spans(numbers) == told


def test_the_page_links_to_the_runs_and_shows_nothing_raw(tmp_path: Path) -> None:
    page = render_flaky(flaky.compare_repeats(summaries(tmp_path, {"t::<i>a": PASS}, {"t::<i>a": FAIL})))

    assert '<a href="2/index.html">' in page
    assert "&lt;b&gt;did&lt;/b&gt; otherwise" in page
    assert "t::&lt;i&gt;a" in page
    assert "<script" not in page
    assert "default-src &#39;none&#39;" in page


def test_flaky_compares_runs_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [written(tmp_path / "one", {"t::a": PASS}), written(tmp_path / "two", {"t::a": FAIL}, version="8.0")]

    assert main(["flaky", *map(str, folders)]) == 1
    told = capsys.readouterr().out
    assert "flaky  t::a on fake" in told
    assert "note: these runs are not of the same fake: 7.2" in told

    assert main(["flaky", "--json", *map(str, folders)]) == 1
    read = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in read["runs"]] == ["one", "two"]
    assert [(each["test"], each["verdicts"]) for each in read["flaky"]] == [("t::a", ["PASS", "FAIL"])]

    assert main(["flaky", str(folders[0]), str(folders[0] / "run.jsonl")]) == 2
    assert "one run alone cannot be compared" in capsys.readouterr().err


def test_flaky_takes_the_folder_of_a_repeat_in_the_order_of_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 12):
        written(tmp_path / str(number), {"t::a": FAIL if number == 10 else PASS})

    assert main(["flaky", str(tmp_path)]) == 1
    assert "PASS in runs 1-9, 11; FAIL (new) in run 10" in capsys.readouterr().out


def test_runs_with_nothing_in_common_are_not_called_steady(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [written(tmp_path / "one", {}), written(tmp_path / "two", {})]

    assert main(["flaky", *map(str, folders)]) == 3
    assert "nothing was compared" in capsys.readouterr().out


CONFTEST = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
pytest_plugins = ["harness.plugin"]
from harness.targets import register
from tests.fake_executor import FakeTarget
from tests.fake_l1 import FakeL1, vmmcall_exit

RUN = int(Path(sys.argv[sys.argv.index("--nsvm-out") + 1]).name)

class Target(FakeTarget):
    # It lies about ASID 5 in the second run, and in no other.
    needs_executor = False

    def start(self):
        self.respond = FakeL1(self.decide).respond
        return super().start()

    def decide(self, vmcb):
        good = vmmcall_exit(vmcb)
        if vmcb["asid"] == 5 and RUN == 2:
            good.fields["exitcode"] = 0x78
        return good

register("fake", Target)
"""
CLAUSES = '[[clause]]\nid = "core.a"\nstatement = "a holds."\napm = "15.5.1"\ntrust = ["APM"]\n'
SUITE = """
import pytest
from harness import VMEXIT, clause

@clause("core.a")
@pytest.mark.parametrize("asid", [1, 5])
def test_asid(l1, asid):
    assert l1.guest("vmmcall", vmcb={"asid": asid}).run().matches(code=VMEXIT.VMMCALL)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with one suite and a target that lies now and then, which `nsvm run` takes for its own."""
    suite = tmp_path / "suites" / "core"
    suite.mkdir(parents=True)
    (suite / "clauses.toml").write_text(CLAUSES)
    (suite / "test_it.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(root=str(ROOT)))
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pytest_process, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "prepare", lambda *_a, **_k: None)
    monkeypatch.setattr(machine, "known_targets", lambda: (*targets.names(), "fake"))
    yield tmp_path


def test_a_target_that_lies_in_one_run_is_found_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = project / "out"

    assert main(["run", "--target", "fake", "--repeat", "3", "--out", str(out), "--", "-n0"]) == 1

    said = capsys.readouterr()
    read = json.loads((out / "repeat.json").read_text())
    assert [run["exit_status"] for run in read["runs"]] == [0, 1, 0]
    assert all((out / folder / "index.html").exists() for folder in ("1", "2", "3", "."))
    (found,) = read["flaky"]
    assert found["test"] == "suites/core/test_it.py::test_asid[5]"
    assert (found["verdicts"], found["news"]) == (["PASS", "FAIL", "PASS"], ["ok", "new", "ok"])
    assert "PASS in runs 1, 3; FAIL (new) in run 2" in said.out
    assert "again: ./nsvm run --repeat 3 --target fake" in said.out
    assert "3 runs, 2 tests compared: 1 flaky" in said.out
    assert main(["flaky", str(out)]) == 1


def test_a_repeat_whose_use_is_wrong_ends_with_the_first_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["run", "--target", "fake", "--repeat", "5", "-k", "nothing", "--out", "out", "--", "-n0"])

    assert status == 2
    assert "no test was chosen" in capsys.readouterr().err
    assert not (project / "out" / "2").exists()
