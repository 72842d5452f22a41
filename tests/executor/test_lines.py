"""A bare machine has its console where its maker put it: the executor speaks on all lines, until one answers.

Without the hypervisor bit in CPUID, QEMU is taken for one.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from harness.machine.base import ConsoleClosed, Target
from tests.executor.conftest import MakeTarget
from tests.executor.machines import DEADLINE_S, Machine
from tests.executor.test_boot_paths import check_serves

BARE = "max,+svm,-hypervisor"

pytestmark = pytest.mark.emulator


def with_lines(target: Target, *devices: str) -> Target:
    """The same machine with these serial devices in place of COM1."""
    argv = target._argv  # type: ignore[attr-defined]

    def changed(*fds: str) -> list[str]:
        words: list[str] = argv(*fds)
        at = words.index("-serial")
        return [*words[:at], *devices, *words[at + 2 :]]

    target._argv = changed  # type: ignore[attr-defined]
    return target


@pytest.mark.parametrize(
    "devices",
    [
        ("-device", "isa-serial,index=1,chardev=console"),
        ("-device", "isa-serial,index=3,chardev=console"),
        ("-serial", "null", "-device", "isa-serial,index=1,chardev=console"),
        ("-device", "pci-serial,chardev=console"),
        ("-serial", "null", "-device", "pci-serial,chardev=console"),
        ("-device", "pci-bridge,id=b,chassis_nr=1", "-device", "pci-serial,bus=b,addr=3,chardev=console"),
    ],
    ids=["COM2", "COM4", "COM2 of two", "PCI", "COM1 and PCI", "PCI behind a bridge"],
)
def test_the_line_is_found(target: MakeTarget, devices: tuple[str, ...]) -> None:
    check_serves(Machine.boot(with_lines(target("qemu-tcg", cpu_model=BARE), *devices)))


def test_firmware_names_the_line(target: MakeTarget, tmp_path: Path) -> None:
    """ACPI's SPCR comes first: here a port that is none of COM1 to COM4."""
    address = struct.pack("<BBBBQ", 1, 8, 0, 1, 0x4A0)
    table = b"\0\0\0\0" + address + bytes(6) + bytes([7]) + bytes(21)  # interface 0, a 16550; 115200 baud
    (tmp_path / "spcr").write_bytes(table)
    made = target("qemu-tcg", cpu_model=BARE, extra_args=("-acpitable", f"sig=SPCR,rev=2,data={tmp_path / 'spcr'}"))
    check_serves(Machine.boot(with_lines(made, "-device", "isa-serial,iobase=0x4a0,irq=5,chardev=console")))


def test_the_command_line_names_the_line(target: MakeTarget) -> None:
    made = target("qemu-tcg", cpu_model=BARE, extra_args=("-append", "baud=57600 uart=0x2e8"))
    check_serves(Machine.boot(with_lines(made, "-serial", "null", "-device", "isa-serial,index=3,chardev=console")))


def test_under_a_hypervisor_nobody_looks(target: MakeTarget) -> None:
    console = with_lines(target("qemu-tcg"), "-device", "isa-serial,index=1,chardev=console").start()

    assert console.read(2.0) == b""


@pytest.mark.parametrize("chipset", ["pc", "q35"])  # q35's FADT names a reset register
def test_a_machine_that_nobody_talks_to_resets_itself(target: MakeTarget, chipset: str) -> None:
    made = target("qemu-tcg", extra_args=("-M", chipset, "-append", "quiet=1"))
    machine = Machine.boot(made)
    began = time.monotonic()
    with pytest.raises(Exception, match=r"closed|ended"):
        while time.monotonic() - began < DEADLINE_S:
            machine.link.listen(1.0)

    assert machine.link.notes == ("nothing was heard for as long as quiet= says: the machine is reset",)
    assert "machine reset" in str(made.exit_reason())


def test_a_machine_that_is_talked_to_does_not(target: MakeTarget) -> None:
    machine = Machine.boot(target("qemu-tcg", extra_args=("-append", "quiet=2")))
    for _ in range(4):
        try:
            machine.link.listen(0.8)
        except ConsoleClosed:
            pytest.fail("it was reset")
        check_serves(machine)
