"""`nsvm sensitivity --machine` around pytest: what is started, when a fault is given up, what is taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import machine, machine_faults
from harness.command import main
from harness.reference.faults import Fault
from harness.sensitivity.machine import NOTICED, UNDECIDED, UNNOTICED, Outcome
from tests.cli.test_run import place_pytest

FAULT = Fault("nrip-stale", "nrips", "It is stale.", "KVM")
FAULTY = '"--fault" in sys.argv'


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine_faults, "KEPT", tmp_path / "faults")
    monkeypatch.setattr(machine_faults, "_program_key", lambda _qemu: "a machine")
    monkeypatch.setattr(machine, "prepare", lambda *_args, **_how: None)
    return tmp_path / "faults"


def campaign(limit_s: float = 60.0) -> machine_faults.Campaign:
    return machine_faults.Campaign(["suites/np"], [], limit_s, {}, machine_faults.KEPT / "runs")


def result(news: str) -> str:
    verdict = "PASS" if news == "ok" else "FAIL"
    return f'write(kind="result", test="suites/t.py::a", target="reference", verdict="{verdict}", news="{news}")'


def test_the_first_new_deviation_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = f"open({str(tmp_path / 'told')!r}, 'a').write(' '.join(sys.argv[1:]))"
    place_pytest(tmp_path, monkeypatch, "\n".join([note, result("new"), "sys.exit(1)"]))

    outcome = campaign().try_fault(FAULT)

    assert (outcome.state, outcome.by, outcome.verdict) == (NOTICED, "suites/t.py::a", "FAIL")
    assert "suites/np --target reference" in (tmp_path / "told").read_text()
    assert "--fault nrip-stale --maxfail=1" in (tmp_path / "told").read_text()


@pytest.mark.parametrize(
    ("body", "state", "why"),
    [
        (result("ok"), UNNOTICED, ""),
        ("sys.exit(3)", UNDECIDED, "pytest ended with status 3"),
        ("time.sleep(60)", UNDECIDED, "took more than 1 s"),
    ],
)
def test_a_run_without_a_deviation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, state: str, why: str
) -> None:
    place_pytest(tmp_path, monkeypatch, f"import time\n{body}")

    outcome = campaign(limit_s=1.0 if why.startswith("took") else 60.0).try_fault(FAULT)

    assert outcome.state == state
    assert why in outcome.why


@pytest.mark.parametrize(("healthy", "status", "state"), [(result("ok"), 0, NOTICED), (result("new"), 1, UNDECIDED)])
def test_a_test_that_deviates_anyway_has_noticed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], healthy: str, status: int,
    state: str,
) -> None:  # fmt: skip
    body = f"if {FAULTY}:\n    {result('new')}\n    sys.exit(1)\n{healthy}"
    place_pytest(tmp_path, monkeypatch, body)

    assert main(["sensitivity", "--machine", "--faults", "nrip-stale", "-n", "1", "--json", "suites/np"]) == status
    assert json.loads(capsys.readouterr().out)["faults"][0]["state"] == state


def test_what_is_known_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place_pytest(tmp_path, monkeypatch, f"if {FAULTY}:\n    {result('new')}\n    sys.exit(1)\n{result('ok')}")
    words = ["sensitivity", "--machine", "--faults", "nrip-stale", "-n", "1", "suites/np"]
    assert main(words) == 0
    place_pytest(tmp_path, monkeypatch, f"if {FAULTY}:\n    sys.exit(3)\n{result('ok')}")

    capsys.readouterr()
    assert main(words) == 0
    assert "1 faults, 0 to be tried" in capsys.readouterr().err
    assert main([*words, "--again"]) == 1


def test_a_fault_that_there_is_not_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensitivity", "--machine", "--faults", "nonsense"]) == 2
    assert "no fault has such a name" in capsys.readouterr().err
    assert main(["sensitivity", "--faults", "nrip-*"]) == 2
    assert "go with --machine" in capsys.readouterr().err


def test_an_outcome_of_a_test_that_is_gone_is_kept_apart() -> None:
    known = {"nrip-stale": Outcome("nrip-stale", UNNOTICED)}
    machine_faults._take_back(campaign(), known)

    assert known == {"nrip-stale": Outcome("nrip-stale", UNNOTICED)}
