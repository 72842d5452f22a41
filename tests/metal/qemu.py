"""QEMU TCG as the lab's machine: a BIOS, a network card that boots by PXE, a disk with an OS of its own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.scenario.asm import Assembler, Snippet
from tests.metal.lab import End

OWN_OS = """
    xor ax, ax
    mov ds, ax
    mov si, offset text
1:  lodsb
    test al, al
    jz 3f
    mov ah, al
    mov dx, 0x3fd
2:  in al, dx
    test al, 0x20
    jz 2b
    mov dx, 0x3f8
    mov al, ah
    out dx, al
    jmp 1b
3:  hlt
    jmp 3b
text: .asciz "\\r\\nA small OS 1.0 one ttyS0\\r\\n\\r\\none login: "
"""


def disk(folder: Path) -> Path:
    """A disk whose boot sector writes a login prompt to COM1, and waits for ever."""
    code = Assembler(folder / "asm").one(Snippet(OWN_OS, 16, 0x7C00)).code
    path = folder / "disk.img"
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    return path


class Qemu:
    """One machine. `arguments` come behind those that make it: a disk, a network, a kernel."""

    def __init__(self, arguments: Sequence[str], *, cpu: str = "max,+svm", memory: str = "128M") -> None:
        self.arguments = list(arguments)
        self.cpu, self.memory = cpu, memory
        self.boots = 0

    def __call__(self) -> tuple[socket.socket, End]:
        self.boots += 1
        ours, theirs = socket.socketpair()
        serial = ["-chardev", f"socket,id=s,fd={theirs.fileno()}", "-serial", "chardev:s"]
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", self.cpu, "-m", self.memory, "-nodefaults",
                "-no-user-config", "-display", "none", "-vga", "none", *serial,
                *self.arguments]  # fmt: skip
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
        )
        theirs.close()

        def end() -> None:
            process.kill()
            process.wait(10)

        return ours, end


def pxe(folder: Path, own_disk: Path) -> list[str]:
    """Network first, with QEMU's own iPXE; the disk where that finds nothing."""
    return [
        "-netdev", f"user,id=n,tftp={folder},bootfile=boot.ipxe", "-device", "virtio-net-pci,netdev=n,bootindex=1",
        "-drive", f"file={own_disk},format=raw,snapshot=on,if=none,id=d",
        "-device", "virtio-blk-pci,drive=d,bootindex=2",
    ]  # fmt: skip
