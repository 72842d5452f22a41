"""A part never looks like the whole: what chose the tests, and what made the machine another, stands by the result."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.record import load
from harness.run.options import RunOptions
from harness.run.scope import chosen_by, is_whole
from harness.summary import summarise
from reports import render_html, render_junit
from reports.table import render_table
from tests.run.test_plugin import TEST, suite  # noqa: F401  # a fixture

pytest_plugins = ["pytester"]
TWO = TEST.format(asid=1) + TEST.format(asid=1).replace("test_one", "test_two")
FAILS = TEST.format(asid=100) + "".join(TEST.format(asid=1).replace("test_one", f"test_{n}") for n in range(40))


def config(root, arguments, **options):
    return SimpleNamespace(
        args=arguments, rootpath=root, invocation_params=SimpleNamespace(dir=root), option=SimpleNamespace(**options)
    )


@pytest.mark.parametrize(
    ("arguments", "options", "by"),
    [
        (["suites"], {}, []),
        (["."], {}, []),
        (["suites/np"], {}, ["suites/np"]),
        (["suites/np/test_x.py", "suites/core"], {}, ["suites/np/test_x.py", "suites/core"]),
        (["suites"], {"keyword": "asid or cr0"}, ["-k 'asid or cr0'"]),
        (["suites"], {"markexpr": "dangerous", "lf": True}, ["-m dangerous", "--lf"]),
        (["suites"], {"deselect": ["x"], "ignore": ["y"]}, ["--deselect x", "--ignore y"]),
    ],
)
def test_what_chose_the_tests(tmp_path, arguments, options, by):
    asked = config(tmp_path, arguments, **options)

    assert chosen_by(asked) == by
    assert is_whole(asked, RunOptions()) is not by or not by


@pytest.mark.parametrize(
    "options",
    [{"without": ("NRIPS",)}, {"cpu": "max"}, {"baseline": Path("x")}],
    ids=lambda options: next(iter(options)),
)
def test_another_machine_or_baseline_is_not_the_whole(tmp_path, options):
    assert is_whole(config(tmp_path, ["suites"]), RunOptions())
    assert not is_whole(config(tmp_path, ["suites"]), RunOptions(**options))
    assert not is_whole(config(tmp_path, ["suites"], maxfail=1), RunOptions())


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_part_is_called_one_everywhere(suite, pytester, how):  # noqa: F811
    _, _, lines = suite(TWO, "--target", "fake", "-k", "one", "--cpu", "max,-npt", *how)
    part = "1 of 2 tests, chosen by -k one; --cpu max,-npt"
    summary = summarise(load(pytester.path / "out" / "run.jsonl"))
    page = render_html(summary)

    scope = next(line for line in lines if line["kind"] == "scope")
    assert (scope["chosen"], scope["there"], scope["chosen_by"]) == (1, 2, ["-k one"])
    assert f"fake ({part}): no new deviation" in render_table(summary, width=200).splitlines()[-1]
    assert f"fake ({part}): no new deviation" in page.partition("<h1")[2].partition("</h1>")[0]
    assert '<span class="badge part">nothing new, 1 of 2 tests</span>' in page
    junit = render_junit(summary).decode()
    assert f'<property name="part" value="{part}" />' in junit
    assert f'<skipped message="this run is a part: {part}" />' in junit


def test_the_whole_is_not_called_a_part(suite, pytester):  # noqa: F811
    suite(TWO, "--target", "fake")
    summary = summarise(load(pytester.path / "out" / "run.jsonl"))

    assert summary.sentence == "fake: no new deviation"
    assert '<span class="badge ok">nothing new</span>' in render_html(summary)
    assert "part" not in render_junit(summary).decode()


@pytest.mark.parametrize("how", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_x_is_1_and_says_how_far_it_came(suite, pytester, how):  # noqa: F811
    done, results, lines = suite(FAILS, "--target", "fake", "-x", *how)
    summary = summarise(load(pytester.path / "out" / "run.jsonl"))

    assert (done.ret, lines[-1]["exit_status"], summary.exit_status) == (1, 1, 1)
    assert not summary.run.interrupted
    assert f"{len(results)} of 41 tests run, then ended by -x" in summary.sentence
    assert f"new deviation, {len(results)} of 41 tests" in render_html(summary)


def test_sigterm_is_143_and_no_ctrl_c(suite, pytester):  # noqa: F811
    suite("", "--target", "fake")
    (pytester.path / "out" / "run.jsonl").unlink()
    slow = 'import time\n@pytest.mark.parametrize("n", range(600))\n' + TEST.format(asid=1).lstrip().replace(
        "(l1):\n", "(l1, n):\n    time.sleep(0.2)\n"
    )
    path = pytester.path / "suites" / "core" / "test_it.py"
    path.write_text(path.read_text() + slow)
    record = pytester.path / "out" / "run.jsonl"
    command = [sys.executable, "-m", "pytest", "suites", "--target", "fake", "--nsvm-out", "out"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (record.exists() and '"result"' in record.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 143
    run = load(record)
    assert [each.reason for each in run.interrupted] == ["SIGTERM"]
    assert run.end is not None and run.end.exit_status == 143


def test_a_target_that_does_not_start_three_times_ends_the_run_there(suite, pytester):  # noqa: F811
    (pytester.path / "conftest.py").write_text(
        (pytester.path / "conftest.py").read_text()
        + "\nclass Never(Target):\n    def start(self):\n        raise TargetError('it will not')\n"
        + "register('never', Never)\n"
    )
    _, results, lines = suite(FAILS, "--target", "never")

    assert 0 < len(results) <= 3
    assert {result["verdict"] for result in results.values()} == {"MISS"}
    (reason,) = [line["reason"] for line in lines if line["kind"] == "interrupted"]
    assert "did not start 3 times in a row; at last: it will not" in reason
    assert reason.endswith(f"{41 - len(results)} of 41 tests were not run")
    assert lines[-1]["exit_status"] == 3
