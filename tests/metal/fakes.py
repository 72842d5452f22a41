"""Machines for the lab that need no emulator: the executor that tests pretend, and an OS that only prints."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.machine.base import TargetOptions
from tests.fake_executor import FakeTarget, Script, digest
from tests.metal.lab import End


class FakeMachine:
    """Boots the pretended executor where `folder` has boot.ipxe, else its own OS, after some firmware noise."""

    def __init__(
        self, folder: Path, scripts: Sequence[Script] = (), respond: Callable[[bytes], bytes] = digest
    ) -> None:
        self.folder = folder
        self.boots: list[str] = []
        self.noise = b"SeaBIOS (version 1.16)\r\nBooting from ROM...\r\n"
        self.own_os = b"Debian GNU/Linux 12 one ttyS0\r\n\r\none login: "
        self.ours: Callable[[], bool] = lambda: (folder / "boot.ipxe").exists()
        self.target = FakeTarget(scripts=scripts, respond=respond)

    def __call__(self) -> tuple[socket.socket, End]:
        if not self.ours():
            self.boots.append("own OS")
            near, far = socket.socketpair()
            near.sendall(self.noise + self.own_os)
            return far, near.close
        self.boots.append("executor")
        console = self.target.start()
        executor = self.target.last

        def reset(at: float, **_how: object) -> None:
            executor.closed_at = at + 0.01  # the lab switches the machine on again, and it boots what is to be booted

        executor._boot = reset  # type: ignore[method-assign]
        line = console._socket.dup()  # type: ignore[attr-defined]
        line.settimeout(None)
        return line, self.target.stop


def options(tmp_path: Path) -> TargetOptions:
    elf = tmp_path / "some.elf"
    elf.write_bytes(b"an executor")
    return TargetOptions(workdir=tmp_path, executor_elf=elf, disk_image=elf)
