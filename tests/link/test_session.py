"""The session tells the ways of losing a target apart, and the next scenario finds it booted again."""

from __future__ import annotations

import pytest

from harness.link.session import ExecutorRefused, Session, TargetLost
from harness.scenario import places, steps
from harness.scenario.scenario import Scenario
from tests.fake_executor import FakeTarget, Fault, Line, Script
from tests.fake_l1 import FakeL1

READ = Scenario([steps.mem_read(places.L1_CODE, 1)])


def session_of(*scripts, start_failures=0, machine=None):
    heard = []
    target = FakeTarget(None, (machine or FakeL1()).respond, scripts, start_failures=start_failures)
    return Session(target, use_lane=False, on_event=lambda what, detail: heard.append(what)), heard, target


@pytest.mark.parametrize(
    ("fault", "verdict", "what"),
    [
        (Fault.RESET_BEFORE, "CRASH", "reset"),
        (Fault.RESET_DURING, "CRASH", "reset"),
        (Fault.CLOSE, "CRASH", "crash"),
        (Fault.HANG, "HANG", "hang"),
        (Fault.PANIC, "CRASH", "garbage"),
    ],
)
def test_each_loss_has_its_name_and_the_next_scenario_runs(fault, verdict, what):
    session, heard, target = session_of(Script(messages={1: (fault, 0)}))
    try:
        with pytest.raises(TargetLost) as caught:
            session.run(READ, 0.8 if what in ("hang", "garbage") else 20)

        assert (caught.value.verdict, caught.value.what) == (verdict, what)
        assert caught.value.frames
        assert session.run(READ, 20)[0].body == b"\xc3"
        assert (target.starts, heard) == (2, ["boot", what, "boot"])
    finally:
        session.close()


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.HANG, Fault.RESET_DURING])
def test_a_boot_that_ends_before_any_test_has_asked_is_a_failed_start(fault, monkeypatch):
    monkeypatch.setattr("harness.link.session.DEADLINE_S", 0.2)
    monkeypatch.setattr("harness.link.session.ROUND_TRIPS", 0)
    session, _, target = session_of(*[Script(messages={0: (fault, 0)})] * 10)
    try:
        for said in ("its executor cannot be used",) * 3 + ("did not start 3 times in a row",) * 2:
            with pytest.raises(TargetLost, match=said) as caught:
                session.run(READ, 0.5)
            assert caught.value.verdict == "MISS"
        assert target.starts == 3
    finally:
        session.close()


def test_a_bad_line_costs_nothing_but_time():
    damage = {offset: Line.CORRUPT for offset in range(40, 4000, 977)}
    session, heard, target = session_of(Script(to_executor=damage, to_harness=damage))
    try:
        for _ in range(20):
            assert session.run(READ, 20)[0].body == b"\xc3"
        assert (target.starts, heard) == (1, ["boot"])
    finally:
        session.close()


def test_answers_that_make_no_sense_lose_the_boot():
    class Liar(FakeL1):
        def respond(self, request):
            answer = super().respond(request)
            return answer[:-1] if self.memory[places.L1_CODE] else answer

    session, _heard, _ = session_of(machine=Liar())
    try:
        with pytest.raises(TargetLost, match="cut short") as caught:
            session.run(READ, 20)

        assert caught.value.what in ("garbage", "missing")
        assert session.running is None
    finally:
        session.close()


def test_a_refused_step_is_our_error_and_not_the_targets():
    session, _, _ = session_of()
    try:
        with pytest.raises(ExecutorRefused, match="WINDOW"):
            session.run(Scenario([steps.window(1)]), 20)

        assert session.run(READ, 20)[0].body == b"\xc3"
    finally:
        session.close()


def test_a_target_that_does_not_start_is_missed_and_not_tried_for_ever():
    session, _, target = session_of(start_failures=100)

    for _ in range(10):
        with pytest.raises(TargetLost) as caught:
            session.run(READ, 1)
        assert caught.value.verdict == "MISS"

    assert target.starts == 3


def test_a_start_that_fails_once_is_forgotten():
    session, _, target = session_of(start_failures=1)
    try:
        with pytest.raises(TargetLost):
            session.run(READ, 1)

        assert session.run(READ, 20)[0].body == b"\xc3"
        assert target.starts == 2
    finally:
        session.close()


def test_requests_are_cut_to_fit():
    session, _, _target = session_of()
    data = bytes(range(256)) * 64
    try:
        records = session.run(
            Scenario([*steps.mem_write(places.SCRATCH, data), steps.mem_read(places.SCRATCH, len(data))]), 20
        )

        assert records[-1].body == data
        assert len(records) == len(steps.mem_write(places.SCRATCH, data)) + 1
    finally:
        session.close()
