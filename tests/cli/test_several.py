"""Several targets in one run: one that is dead costs itself, is named, and is MISS; the others are judged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.cli import several
from harness.cli.pytest_process import Ended
from harness.cli.signals import Signals
from harness.command import main
from harness.record import load
from harness.summary import summarise
from tests.cli.test_run import ENDS, PASSES, place_pytest

HOSTS = ("ssh://root@a?l0=kvm", "ssh://root@b?l0=kvm", "ssh://root@a?l0=xen")


def test_hosts_are_lanes_of_their_own_and_what_is_here_is_one() -> None:
    assert several.lanes(["qemu-tcg", HOSTS[0], "sim:kvm", HOSTS[1], HOSTS[2], "metal:zen4-b"]) == [
        ["qemu-tcg", "sim:kvm"], [HOSTS[0], HOSTS[2]], [HOSTS[1]], ["metal:zen4-b"],
    ]  # fmt: skip


def ended(tmp_path: Path, name: str, status: int = 0) -> Ended:
    folder = tmp_path / name.translate(str.maketrans("/?:", "---"))
    folder.mkdir(exist_ok=True)
    return Ended(name, status, folder)


def test_different_machines_are_run_at_once(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def run(name: str, meanwhile: bool) -> Ended:
        assert meanwhile
        both.wait()  # breaks unless the other one is running, too
        return ended(tmp_path, name)

    done = several.carry_out(HOSTS[:2], run, Signals(), lambda _end: "", fail_fast=False)

    assert [end.target for end in done] == list(HOSTS[:2])


def test_a_dead_one_is_missed_and_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, _meanwhile: bool) -> Ended:
        return ended(tmp_path, name, 4 if name == "bochs" else 0)

    names = ["bochs", "qemu-tcg", "reference"]
    done = several.carry_out(names, run, Signals(), lambda end: "no bochs here" if end.status else "", fail_fast=False)

    assert [end.target for end in done] == names
    assert capsys.readouterr().err == "nsvm: bochs: MISS: no bochs here; the other targets go on\n"
    record = load(tmp_path / "bochs" / "run.jsonl")
    assert [(result.verdict, result.reason) for result in record.results] == [("MISS", "no bochs here")]
    assert record.complete and summarise(record).exit_status == 3


def test_with_fail_fast_none_begins_after_it(tmp_path: Path) -> None:
    done = several.carry_out(
        ["bochs", "qemu-tcg"], lambda name, _: ended(tmp_path, name, 4), Signals(), lambda _end: "dead", fail_fast=True
    )

    assert [end.target for end in done] == ["bochs"]
    assert not (tmp_path / "bochs" / "run.jsonl").exists()


MISSES = """\
write(kind="event", target="qemu-tcg", what="missing", detail="it did not start: no such CPU")
write(kind="result", test="suites/t.py::a", target="qemu-tcg", verdict="MISS", news="ok", clauses=["core.x"])
write(kind="interrupted", reason="qemu-tcg did not start 3 times in a row")
sys.exit(2)
"""


def test_a_target_that_never_starts_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place_pytest(tmp_path, monkeypatch, MISSES)

    assert main(["run", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == ("nsvm: qemu-tcg: it did not start: no such CPU")


@pytest.mark.parametrize(("more", "status", "reports"), [([], 3, True), (["--fail-fast"], 2, False)])
def test_the_report_holds_those_that_were_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], status: int, reports: bool,
) -> None:  # fmt: skip
    dead = "if 'bochs' in sys.argv: print('ERROR: there is no bochs'); sys.exit(4)\n"
    place_pytest(tmp_path, monkeypatch, dead + "\n".join([PASSES, ENDS.format(0)]))
    out = tmp_path / "out"

    assert main(["run", "--out", str(out), "--target", "bochs", "--target", "qemu-tcg", *more]) == status
    said = capsys.readouterr()
    assert (out / "index.html").exists() is reports
    if reports:
        assert "nsvm: bochs: MISS: pytest: there is no bochs; the other targets go on" in said.err
        assert said.out.endswith("nsvm: FAILED 1 without a verdict\n")
        assert {result.target: result.verdict for result in load(out / "run.jsonl").results} == {
            "bochs": "MISS", "qemu-tcg": "PASS",
        }  # fmt: skip
