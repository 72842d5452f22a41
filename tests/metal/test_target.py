"""A bare machine is driven from its own OS to the executor and back, and each thing that goes wrong in a lab is named.

The machine is a pretended one: a console on a TCP port, a PDU over HTTP, a folder that it boots from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.link.session import Session, TargetLost
from harness.machine.base import TargetError
from harness.metal.error import MetalError
from harness.metal.lease import Lease
from harness.scenario.scenario import Scenario
from harness.scenario.steps import mem_read
from harness.targets import create
from harness.targets.metal import Metal
from tests.fake_executor import Fault, Script
from tests.fake_l1 import FakeL1, vmmcall_exit
from tests.metal.fakes import FakeMachine, options
from tests.metal.lab import Lab

ASK = Scenario([mem_read(0x80_0000, 4)])


class Room:
    """The lab, its machine and a session on it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = "", **how: object) -> None:
        self.folder = tmp_path / "tftp"
        self.folder.mkdir()
        self.machine = FakeMachine(self.folder, respond=FakeL1(vmmcall_exit).respond, **how)  # type: ignore[arg-type]
        self.lab = Lab(self.machine, on=True)
        (tmp_path / "lab.toml").write_text(self.lab.toml(f'driver = "files"\nfolder = "{self.folder}"', more))
        monkeypatch.setenv("NSVM_LAB", str(tmp_path / "lab.toml"))
        monkeypatch.setenv("NSVM_LEASES", str(tmp_path / "leases"))
        target = create("metal:one", options(tmp_path))
        assert isinstance(target, Metal)
        self.target = target
        self.events: list[tuple[str, str]] = []
        self.session = Session(target, on_event=lambda what, detail: self.events.append((what, detail)))


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Room]:
    how = getattr(request, "param", {})
    made = Room(tmp_path, monkeypatch, **how)
    with made.lab:
        yield made
        made.session.close()
        made.target.close()


def ask(room: Room) -> bytes:
    return room.session.run(ASK, 5.0)[0].body


def test_booted_run_and_given_back_with_its_own_os(room: Room) -> None:
    (room.folder / "grub.cfg").write_text("the lab's own")
    assert len(ask(room)) == 4
    assert "executor.elf" in (room.folder / "grub.cfg").read_text()
    room.session.close()
    room.target.close()

    assert room.machine.boots == ["own OS", "executor", "own OS"]
    assert [path.name for path in room.folder.iterdir()] == ["grub.cfg"]
    assert (room.folder / "grub.cfg").read_text() == "the lab's own"
    assert room.target.machine.story[-1] == "machine one: left with its own OS up"


def test_a_fresh_boot_is_a_reset_by_the_executor(room: Room) -> None:
    ask(room)
    room.session.restart("a test wants its own boot")
    ask(room)

    assert room.lab.power == ["off", "on"]
    assert (
        len({executor for executor in room.machine.target.executors}) == 1 or room.machine.boots.count("executor") == 2
    )
    assert room.session.boots == 2


@pytest.mark.parametrize("room", [{"scripts": [Script(messages={3: (Fault.HANG, 0)})]}], indirect=True)
def test_a_machine_that_hangs_is_power_cycled(room: Room) -> None:
    with pytest.raises(TargetLost) as lost:
        for _ in range(9):
            room.session.run(ASK, 0.5)
    assert lost.value.verdict == "HANG"
    assert len(ask(room)) == 4

    assert room.lab.power == ["off", "on"] * 2


def test_a_power_cycle_without_effect_is_noticed(room: Room) -> None:
    ask(room)
    room.lab.deaf = True
    room.target._lost = True
    room.session._boot = None
    with pytest.raises(TargetLost) as lost:
        ask(room)

    assert lost.value.verdict == "MISS"
    assert "the same boot as before still answers" in lost.value.reason
    room.lab.deaf = False


def test_a_power_driver_that_fails_is_named(room: Room) -> None:
    room.lab.broken = True
    with pytest.raises(TargetLost) as lost:
        ask(room)

    assert lost.value.verdict == "MISS"
    assert "machine one: power: GET" in lost.value.reason
    assert "500 the PDU does not answer" in lost.value.reason


def test_its_own_os_in_place_of_the_executor(room: Room) -> None:
    room.machine.ours = lambda: False
    with pytest.raises(TargetLost) as lost:
        ask(room)

    assert lost.value.verdict == "MISS"
    assert "its own operating system came up instead of the executor" in lost.value.reason
    assert "one login:" in lost.value.log


@pytest.mark.parametrize("room", [{"more": "", "scripts": []}], indirect=True)
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"CMOS checksum bad\r\nPress F1 to continue, DEL to enter setup\r\n", "the firmware waits for a key"),
        (bytes(range(0x80, 0x100)) * 4, "garbage: is 115200 the right baud rate?"),
        (b"No bootable device.\r\n", "the firmware finds nothing to boot"),
        (b"grub rescue> ", "GRUB waits at its prompt"),
        (b"", "nothing came over the console"),
        (b"PXE-E53: No boot filename received\r\n", "network boot failed"),
        (b"Secure Boot Violation\r\nInvalid signature\r\n", "Secure Boot does not let it start"),
    ],
    ids=["bios prompt", "wrong baud rate", "nothing to boot", "grub", "silent", "pxe", "secure boot"],
)
def test_what_the_console_shows_in_place_of_the_executor(
    room: Room, monkeypatch: pytest.MonkeyPatch, said: bytes, told: str
) -> None:
    room.machine.ours = lambda: False
    room.machine.noise, room.machine.own_os = b"", said
    monkeypatch.setattr(type(room.target), "capabilities", lambda self: room.machine.target.capabilities())
    room.machine.target._boot_deadline_s = 0.6
    with pytest.raises(TargetLost) as lost:
        ask(room)
    assert lost.value.verdict == "MISS"
    assert told in lost.value.reason
    room.machine.own_os = b"one login: "  # somebody mended it


def test_a_console_that_is_cut_says_nothing_of_the_machine(room: Room) -> None:
    ask(room)
    room.lab.cut()
    with pytest.raises(TargetLost) as lost:
        ask(room)
    assert (lost.value.verdict, lost.value.what) == ("MISS", "lost")
    assert "the console was cut" in lost.value.reason

    assert len(ask(room)) == 4  # the server takes us again


def test_a_line_that_drops_bytes_is_lived_with(room: Room) -> None:
    count = 0

    def drop(data: bytes) -> bytes:
        nonlocal count
        kept = bytes(byte for at, byte in enumerate(data, count) if at % 1000 != 999)
        count += len(data)
        return kept

    room.lab.mangle = drop
    for _ in range(30):
        assert len(ask(room)) == 4


def test_a_machine_that_somebody_has_is_refused(room: Room) -> None:
    lease = Lease("one")
    lease.take()
    with pytest.raises(MetalError, match=rf"machine one is in use by .*@.*, process {os.getpid()}, since "):
        room.target.claim()
    lease.release()
    room.target.claim()


def test_a_machine_that_does_not_come_back_is_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(room)
    room.machine.own_os = b"kernel panic"
    object.__setattr__(room.target.spec, "grace_s", 0.3)
    room.session.close()
    room.target.close()

    assert "not left with its own OS: machine one does not come up" in room.target.machine.story[-1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no machine 'one' in a lab file; there are: none"),
        ('[metal.one]\nconsole = "/dev/ttyS0"\n', "machine one: power is missing"),
        ("[metal.one]\nconsole = 7\n", "console must be text in quotes, not 7"),
        ("[metal.one]\nbauds = 7\n", "'bauds' is no key"),
        ('[metal.one]\npower = "on"\n', r"write \[metal.one.power\] with driver"),
        ("[metal.one]\nbaud = 7\n", "baud must be 300 to 4000000"),
        (
            '[metal.one]\nconsole = "x"\n[metal.one.power]\ndriver = "magic"\n[metal.one.boot]\ndriver = "kexec"\n',
            "machine one: power: driver is 'magic'; there are command, ipmi, redfish, pdudaemon",
        ),
        (
            '[metal.one]\nconsole = "x"\n[metal.one.power]\ndriver = "pdudaemon"\nurl = "u"\nhostname = "h"\n'
            '[metal.one.boot]\ndriver = "kexec"\n',
            "machine one: power: port is missing",
        ),
        (
            '[metal.one]\nconsole = "x"\n[metal.one.power]\ndriver = "command"\non_command = "a"\noff_command = "b"\n'
            '[metal.one.boot]\ndriver = "kexec"\n',
            "boot goes by its own OS: say host =",
        ),
    ],
)
def test_a_wrong_lab_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    (tmp_path / "lab.toml").write_text(text)
    monkeypatch.setenv("NSVM_LAB", str(tmp_path / "lab.toml"))

    with pytest.raises(TargetError, match=complaint):
        create("metal:one", options(tmp_path))
