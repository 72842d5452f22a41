"""Bringing a host back, without a host and without waiting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.hosts import power
from harness.hosts.errors import HostError
from harness.hosts.spec import HostSpec


class World:
    """A clock, and a host that is there from `back_at` on."""

    def __init__(self, back_at: float, error: HostError | None = None) -> None:
        self.now = 0.0
        self.tried: list[float] = []
        self._back_at = back_at
        self._error = error or HostError("host h: nobody there", passing=True)

    def recover(self, **changes: Any) -> power.Back:
        spec = HostSpec("h", grace_s=60, **changes)
        return power.recover(spec, connect=self._connect, clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _connect(self, _spec: HostSpec) -> Any:
        self.tried.append(self.now)
        if self.now < self._back_at:
            raise self._error
        return object()


def test_it_is_waited_for_with_growing_pauses() -> None:
    world = World(30)
    assert "came back by itself, after 35 s" in world.recover().story
    assert world.tried == [0, 1, 3, 7, 15, 25, 35]


def test_it_stays_away() -> None:
    world = World(10_000)
    with pytest.raises(HostError, match=r"nobody there \(waited 5\d s for host h\)") as caught:
        world.recover()
    assert caught.value.passing


@pytest.mark.parametrize("power_command", [None, "true"])
def test_no_recovery_takes_longer_than_a_run_is_patient(power_command: str | None) -> None:
    world = World(10_000)
    with pytest.raises(HostError):
        world.recover(power_command=power_command)
    spec = HostSpec("h", grace_s=60, power_command=power_command)
    assert world.now + len(world.tried[-1:]) * spec.connect_deadline_s <= power.longest_recovery_s(spec)
    assert power.longest_recovery_s(spec) >= (120 if power_command else 60)


def test_a_host_that_will_not_have_us_is_not_waited_for() -> None:
    world = World(10_000, HostError("host h: the host key has changed"))
    with pytest.raises(HostError, match="has changed"):
        world.recover()
    assert world.now == 0


def test_the_power_command_does_not_see_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSVM_SSH_PASSWORD", "correct-horse")
    said = power.power_cycle(HostSpec("h", power_command="env"))
    assert "PATH=" in said and "correct-horse" not in said


def test_the_power_command_is_run_once(tmp_path: Path) -> None:
    said = tmp_path / "said"
    world = World(70)
    back = world.recover(power_command=f"sh -c 'echo $0 \"$@\" | tee -a {said}' cycle 'the host'")
    assert back.output == "cycle the host\n" == said.read_text() and "after its power command" in back.story


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("no-such-program-here x", "No such file"),
        ("sh -c 'echo out of power >&2; exit 4'", "ended with 4: out of power"),
        ("'", "is no command"),
        ("", "is no command"),
    ],
)
def test_a_power_command_that_fails(command: str, says: str) -> None:
    with pytest.raises(HostError, match=says) as caught:
        power.power_cycle(HostSpec("h", power_command=command))
    assert "\n" not in str(caught.value)


def test_a_power_command_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "POWER_DEADLINE_S", 0.3)
    with pytest.raises(HostError, match="did not end"):
        power.power_cycle(HostSpec("h", power_command="sleep 20"))
