"""`nsvm sensitivity` around pytest: what recording is given, and what becomes of tests that were not recorded."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from harness.cli import machine
from harness.cli import sensitivity as command
from harness.command import main
from harness.record import LOST_VERDICTS
from harness.sensitivity import sensitivity as judging
from tests.cli.test_run import ENDS, FAILS, PASSES, place_pytest

KEEPS = 'open(sys.argv[sys.argv.index("--nsvm-answers") + 1], "a").write("kept\\n")'
LOST = (
    'write(kind="result", test="suites/t.py::lost", target="qemu-tcg", verdict="{}", reason="it is gone", '
    'clauses=["core.x"])'
)


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `nsvm sensitivity` with a pytest that does what `body` says; gives the status and what was to be judged."""
    monkeypatch.setattr(command, "ANSWERS", tmp_path / "answers")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing_of_the_kind")
    judged: dict[str, Any] = {}

    def judge(paths: list[Path], **how: Any) -> int:
        judged.update(how, paths=paths)
        return 0

    monkeypatch.setattr(judging, "judge", judge)

    def go(body: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        place_pytest(tmp_path, monkeypatch, body)
        return main(["sensitivity", *arguments]), judged

    return go


def test_recording_is_a_run_like_any_other(pretend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    monkeypatch.setattr(command, "password_for", lambda name: {"NSVM_SSH_PASSWORD": f"for {name}"})
    note = "\n".join(f"open({str(tmp_path / 'told')!r}, 'a').write({what} + '\\n')" for what in (
        "' '.join(sys.argv[1:])", "os.environ['NSVM_SSH_PASSWORD']", "os.environ.get('PYTEST_ADDOPTS', 'none')"
    ))  # fmt: skip
    status, judged = pretend("\n".join([note, KEEPS, PASSES, FAILS, ENDS.format(1), "sys.exit(1)"]), "-n", "9")

    answers = tmp_path / "answers"
    assert status == 0
    assert judged["paths"] == [answers / "qemu-tcg.jsonl"]
    assert judged["processes"] == 9
    assert judged["why"] == {"suites/t.py::a": "PASS on qemu-tcg: ", "suites/t.py::b": "FAIL (new) on qemu-tcg: "}
    assert (tmp_path / "told").read_text().splitlines() == [
        f"-m pytest suites --target qemu-tcg --nsvm-out {answers / 'qemu-tcg'} -p no:cacheprovider "
        f"--nsvm-answers {answers / 'qemu-tcg.jsonl'} -n 3",
        "for qemu-tcg",
        "none",
    ]


@pytest.mark.parametrize("verdict", sorted(LOST_VERDICTS))
def test_tests_that_could_not_be_run_are_an_error_of_the_harness(
    pretend: Any, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    status, judged = pretend("\n".join([KEEPS, PASSES, LOST.format(verdict), LOST.format("MISS"), ENDS.format(3)]))

    assert (status, judged) == (3, {})
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"recording on qemu-tcg failed: suites/t.py::lost ended with {verdict}, and 1 more: it is gone" in said


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("print('ERROR: file not found: x'); sys.exit(4)", "pytest ended with status 4: file not found: x"),
        (KEEPS + "\nrecord.close(); os.unlink(record.name)", "there is no record of it"),
        (KEEPS + "\n" + PASSES, "the record has no end"),
        (KEEPS + "\nwrite(kind='interrupted', reason='2 of 3 tests were not run')", "2 of 3 tests were not run"),
        (
            KEEPS.replace("kept\\n", "") + "\n" + FAILS + "\n" + ENDS.format(1),
            "no test ended so that its answers can be used",
        ),
    ],
    ids=["usage", "no record", "cut short", "interrupted", "nothing kept"],
)
def test_recording_that_failed_is_told_in_a_line(
    pretend: Any, capsys: pytest.CaptureFixture[str], body: str, complaint: str
) -> None:
    status, judged = pretend(body)

    assert (status, judged) == (3, {})
    assert complaint in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_recording_is_not_judged(
    pretend: Any, capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    got, judged = pretend(f"{KEEPS}\n{PASSES}\nos.kill(os.getppid(), {number:d})\ntime.sleep(60)")

    assert (got, judged) == (status, {})
    assert capsys.readouterr().err.splitlines()[-1] == "nsvm: interrupted"


def test_answers_that_are_given_need_an_assembler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answers = tmp_path / "answers"
    answers.touch()

    assert main(["sensitivity", "--no-install", str(answers)]) == 2
    assert "Debian package binutils" in capsys.readouterr().err
