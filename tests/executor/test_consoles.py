"""Consoles that the command line asks for: port E9h, which only prints, and the block console where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.targets.base import Target
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


def test_where_there_is_no_block_console_the_uart_serves(target: MakeTarget) -> None:
    check_serves(Machine.boot(target("qemu-tcg", extra_args=("-append", "console=block"))))
