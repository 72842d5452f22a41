"""The client of QEMU's monitor, against a monitor made here."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from harness.sim import qmp as client
from harness.sim.error import SimError
from harness.sim.qmp import Qmp

Answer = Callable[[str], bytes | None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Qmp]]:
    ends: list[socket.socket] = []

    def start(answer: Answer, greeting: bytes = b'{"QMP": {}}\r\n') -> Qmp:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))

        def run() -> None:
            theirs.sendall(greeting)
            for line in theirs.makefile("rb"):
                said = answer(json.loads(line)["execute"])
                if said is None:
                    theirs.close()
                    return
                theirs.sendall(said)

        threading.Thread(target=run, daemon=True).start()
        return Qmp(ours, 20.0)

    yield start
    for end in ends:
        end.close()


def returns(value: Any) -> bytes:
    return json.dumps({"return": value}).encode() + b"\r\n"


def test_events_are_passed_over(serve: Callable[[Answer], Qmp]) -> None:
    event = b'{"event": "RESUME"}\n'
    qmp = serve(lambda command: event + returns({"status": "running"}) + event)
    assert qmp.wait_status(("running",), 20.0) == "running"
    assert qmp.execute("query-status") == {"status": "running"}


def test_a_refusal_says_what_and_why(serve: Callable[[Answer], Qmp]) -> None:
    refused = b'{"error": {"class": "GenericError", "desc": "no such thing"}}\n'
    qmp = serve(lambda command: returns({}) if command == "qmp_capabilities" else refused)
    with pytest.raises(SimError, match="QEMU refuses cont: no such thing"):
        qmp.execute("cont")


def test_its_end_is_noticed(serve: Callable[[Answer], Qmp]) -> None:
    qmp = serve(lambda command: returns({}) if command == "qmp_capabilities" else None)
    with pytest.raises(SimError, match="monitor is gone"):
        qmp.execute("cont")


def test_silence_ends(serve: Callable[[Answer], Qmp]) -> None:
    qmp = serve(lambda command: returns({}) if command == "qmp_capabilities" else b"")
    with pytest.raises(SimError, match="does not answer"):
        qmp.execute("cont", deadline_s=0.1)


def test_a_state_that_is_never_reached(serve: Callable[[Answer], Qmp], monkeypatch: pytest.MonkeyPatch) -> None:
    qmp = serve(lambda command: returns({"status": "inmigrate"}))
    slept = [0.0]  # time goes by nowhere else, so that no answer comes too late
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append))
    with pytest.raises(SimError, match="is inmigrate after"):
        qmp.wait_status(("running",), 0.05)


def test_saving(serve: Callable[[Answer], Qmp]) -> None:
    asked: list[str] = []

    def answer(command: str) -> bytes:
        asked.append(command)
        return returns({"status": "completed"} if asked.count("query-migrate") > 2 else {"status": "active"})

    with open("/dev/null", "wb") as null:
        serve(answer).save(null.fileno(), 20.0)
    assert asked[:4] == ["qmp_capabilities", "getfd", "migrate-set-parameters", "migrate"]


def test_a_full_disk_while_saving(serve: Callable[[Answer], Qmp]) -> None:
    qmp = serve(lambda command: returns({"status": "failed", "error-desc": "No space left on device"}))
    with open("/dev/null", "wb") as null, pytest.raises(SimError, match=r"could not save .*: No space left"):
        qmp.save(null.fileno(), 20.0)
