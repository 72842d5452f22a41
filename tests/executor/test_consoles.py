"""Consoles that the command line asks for: port E9h, which only prints; virtio; and what happens without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.machine.base import Target
from harness.scenario import places, steps
from tests.executor.conftest import MakeTarget
from tests.executor.machines import DEADLINE_S, Machine
from tests.executor.test_boot_paths import bundle, check_ran, check_serves

pytestmark = pytest.mark.emulator


def at_port_e9(target: Target) -> Target:
    """The same machine without a UART; what it prints to port E9h is its console."""
    argv = target._argv  # type: ignore[attr-defined]
    new = {"-serial": "-device", "chardev:console": "isa-debugcon,iobase=0xe9,chardev=console"}
    target._argv = lambda *fds: [new.get(word, word) for word in argv(*fds)]  # type: ignore[attr-defined]
    return target


@pytest.mark.parametrize("option", ["console=e9", "quiet console=e9 uart=0x3f8"])
def test_a_bundle_is_run_and_printed_to_port_e9(target: MakeTarget, tmp_path: Path, option: str) -> None:
    machine = Machine.boot(at_port_e9(target("qemu-tcg", bundle=bundle(tmp_path), extra_args=("-append", option))))

    check_ran(machine.link.collect_bundle(DEADLINE_S))
    assert machine.link.console_text == ""


def test_without_the_option_nothing_is_printed_to_port_e9(target: MakeTarget, tmp_path: Path) -> None:
    console = at_port_e9(target("qemu-tcg", bundle=bundle(tmp_path))).start()

    assert console.read(2.0) == b""


@pytest.mark.parametrize("option", ["console=block", "console=virtio"])
def test_where_there_is_no_such_console_the_uart_serves(target: MakeTarget, option: str) -> None:
    check_serves(Machine.boot(target("qemu-tcg", extra_args=("-append", option))))


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_virtio_console(target: MakeTarget, tmp_path: Path, cpus: int) -> None:
    """Blocks of many sizes, and the bytes that a line might change."""
    made = target("qemu-tcg", bundle=bundle(tmp_path), cpus=cpus, extra_args=("-append", "console=virtio"))
    argv = made._argv  # type: ignore[attr-defined]
    device = ["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console"]
    made._argv = lambda *fds: [  # type: ignore[attr-defined]
        *(word for word in argv(*fds) if word not in ("-serial", "chardev:console")),
        *device,
    ]
    machine = Machine.boot(made)
    check_ran(machine.link.collect_bundle(DEADLINE_S))

    for size in (1, 255, 256, 3000, 3900):
        data = (bytes(range(256)) * 16)[:size]
        read = machine.run(*steps.mem_write(places.ARENA, data), steps.mem_read(places.ARENA, 60_000))[-1]
        assert read.body[:size] == data
    assert machine.link.stats.bad_frames == machine.link.stats.retransmits == 0
    assert machine.hello.cpu_count == cpus
