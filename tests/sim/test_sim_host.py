"""A simulated KVM host, restored: guests start on it, and its end is survived.

Uses sim:kvm if it is built. If it is not, it is built where the project's own tests run by themselves (CI is set);
elsewhere these tests are left out, for building downloads 35 MB.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import machine
from harness.hosts.connection import Connection
from harness.link.link import Hello, Link
from harness.machine.base import TargetError, TargetOptions
from harness.machine.process import start_time, state_directory
from harness.sim import state as states
from harness.sim.error import SimError
from harness.sim.machine import OuterMachine
from harness.sim.wanted import Wanted
from harness.targets.sim_host import SimHost
from tests.sim.built import built

pytestmark = pytest.mark.emulator

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "guest_payloads/executor/build"


@pytest.fixture(scope="module")
def state() -> states.State:
    return built("kvm", Wanted("kvm"))


@pytest.fixture
def target(state: states.State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimHost]:
    machine.build_executor()
    machine.build_host_program()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = SimHost("sim:kvm", TargetOptions(tmp_path, BUILD / "executor.elf", BUILD / "disk.img"))
    yield made
    made.close()
    assert not list(state_directory().iterdir()), "something was left behind"


def boot(target: SimHost) -> tuple[Link, Hello]:
    capabilities = target.capabilities()
    link = Link(target.start(), lane=None, round_trip_s=capabilities.round_trip_s)
    return link, link.hello(capabilities.boot_deadline_s)


def machine_of(target: SimHost) -> OuterMachine:
    assert target._machine is not None
    return target._machine


def test_guests_start_one_after_the_other(target: SimHost) -> None:
    assert not target.missing()
    first = boot(target)[1]
    port = machine_of(target).port
    second = boot(target)[1]
    assert first.boot_id != second.boot_id
    assert machine_of(target).port == port, "the host was not kept"
    assert target.alive() and target.exit_reason() is None
    leaf = second.cpuid.leaves[0x8000000A, 0]
    assert leaf[3] & 1, "no nested paging"
    assert target.version().startswith("KVM of Linux ") and target.version_tuple >= (6, 1)


def test_a_command_is_run_on_each_restored_host(state: states.State) -> None:
    """Nothing is left of the one before, so it must be run again each time."""
    state = dataclasses.replace(state, on_restore="[ ! -e /tmp/mark ] && echo here > /tmp/mark")
    machine = OuterMachine(state)
    try:
        for _ in range(2):
            with Connection(machine.start(60)) as connection:
                assert connection.run("cat /tmp/mark").text == "here"
        machine = OuterMachine(dataclasses.replace(state, on_restore="echo all went well; echo it hurts >&2; exit 3"))
        with pytest.raises(SimError, match=r"--on-restore .* ended with 3: it hurts\Z"):
            machine.start(60)
        assert not machine.alive()
    finally:
        machine.stop()


def test_a_panic_of_the_host_is_told_and_survived(target: SimHost) -> None:
    boot(target)
    connection = target._host.hold.connection if target._host else None
    assert connection is not None
    connection.open("sleep 0.2; echo c > /proc/sysrq-trigger")
    deadline = time.monotonic() + 60
    while target.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert target.exit_reason() == "the host panicked: sysrq triggered crash"
    assert "sysrq: Trigger a crash" in target.log_tail()
    boot(target)
    assert target.exit_reason() is None


def test_an_emulator_that_is_killed_is_told_and_survived(target: SimHost) -> None:
    boot(target)
    child = machine_of(target)._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    assert target.exit_reason() == "the outer QEMU died of SIGKILL"
    assert not target.alive()
    boot(target)
    pid = machine_of(target)._child.pid  # type: ignore[union-attr]
    target.close()
    assert start_time(pid) is None
    assert not target.alive() and target.exit_reason() is None


def test_two_do_not_meet(target: SimHost, tmp_path: Path) -> None:
    other = SimHost("sim:kvm", TargetOptions(tmp_path, BUILD / "executor.elf", BUILD / "disk.img"))
    try:
        assert boot(target)[1].boot_id != boot(other)[1].boot_id
        assert machine_of(target).port != machine_of(other).port
    finally:
        other.close()


def test_a_state_file_that_is_cut_short(state: states.State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSVM_SIM", str(tmp_path))
    subprocess.run(["cp", "-r", str(state.directory), str(tmp_path / "kvm")], check=True, timeout=60)
    os.truncate(tmp_path / "kvm" / states.STATE, 1 << 20)
    target = SimHost("sim:kvm", TargetOptions(tmp_path, BUILD / "executor.elf", BUILD / "disk.img"))
    try:
        with pytest.raises(
            TargetError, match=r"sim:kvm did not come up: .*, run \./nsvm sim build kvm --force\)"
        ) as caught:
            target.start()
        assert "\n" not in str(caught.value)
    finally:
        target.close()
