"""HVM guests on a simulated Xen host: they boot from the disk, their ends are told, and nothing of QEMU stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import machine
from harness.hosts.errors import HostError
from harness.link.link import LinkClosed
from harness.machine.base import TargetOptions
from harness.sim.wanted import Wanted
from harness.targets.sim_host import SimHost
from tests.sim.built import built
from tests.sim.test_sim_host import BUILD, boot

pytestmark = pytest.mark.emulator

FROM_DISK = 4
QEMU = "/usr/libexec/xen-qemu-system-i386"
OURS = "xl list | grep nsvm-; pidof xen-qemu-system-i386; ls /var/log/xen /dev/shm/nsvm | grep 'nsvm-[0-9].*[.]'"
"""Prints what there is of our guests: domains, their QEMU, its log, their configuration."""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimHost]:
    built("xen-hvm", Wanted("xen", with_qemu=True))
    machine.build_executor()
    machine.build_host_program()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = SimHost("sim:xen-hvm", TargetOptions(tmp_path, BUILD / "executor.elf", BUILD / "disk.img"))
    yield made
    made.close()


def shell(target: SimHost, script: str) -> list[str]:
    """What a shell on the host says."""
    connection = target._host.hold.connection if target._host else None
    assert connection is not None
    try:
        return connection.run(script).text.splitlines()
    except HostError as error:
        if not error.passing:
            raise
        # Dropbear 2022.83 closes a channel that has not begun when another one of the connection ends: the guest's.
        return connection.run(script).text.splitlines()


def test_a_guest_boots_from_the_disk_and_leaves_nothing(target: SimHost) -> None:
    link, hello = boot(target)
    assert hello.boot_kind == FROM_DISK
    assert hello.cpuid.leaves[0x8000000A, 0][3] & 1, "no nested paging"
    assert link.hello(5).boot_id == hello.boot_id
    assert len(shell(target, OURS)) == 5, "one domain, its QEMU and three files"
    target.stop()
    assert shell(target, OURS) == []


def test_how_a_guest_ended_is_told(target: SimHost) -> None:
    link, _ = boot(target)
    shell(target, "xl destroy $(xl list | sed -n 's/^\\(nsvm-[^ ]*\\).*/\\1/p')")
    with pytest.raises(LinkClosed):
        link.hello(10)
    assert target.exit_reason() == "Xen: the domain was destroyed", target.log_tail()
    link, _ = boot(target)
    with pytest.raises(LinkClosed):
        link.reboot(10)
    assert target.exit_reason() == "Xen: the domain reset (triple fault or reboot)"
    target.stop()
    assert shell(target, OURS) == []


def test_what_its_qemu_says_is_told(target: SimHost) -> None:
    boot(target)
    shell(target, f"kill -9 $(pidof {Path(QEMU).name})")
    target.stop()
    assert shell(target, OURS) == []
    shell(target, "mv /usr/share/qemu/keymaps/en-us /tmp")
    with pytest.raises(LinkClosed):
        boot(target)
    assert "could not be made: qemu-system-i386: -vnc none: could not read keymap" in (target.exit_reason() or "")
    shell(target, f"mv {QEMU} /tmp")
    with pytest.raises(LinkClosed):
        boot(target)
    assert f"device model {QEMU} is not executable" in (target.exit_reason() or "")
    assert target._host is not None
    assert QEMU in target._host.missing()[0].what
    target.stop()
    assert shell(target, OURS) == []
