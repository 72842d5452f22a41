"""The lines by which GRUB, iPXE and kexec boot the executor."""

from __future__ import annotations

ELF, BUNDLE = "executor.elf", "bundle.bin"
"""The names of the files."""


def grub_entry(title: str, paths: list[str], command_line: str) -> str:
    """A menu entry of GRUB: the executor, and its bundle behind it."""
    lines = [f"  multiboot2 {paths[0]} {command_line}".rstrip(), *(f"  module2 {path}" for path in paths[1:])]
    return "\n".join([f"menuentry '{title}' --id {title} {{", *lines, "}"]) + "\n"


def ipxe_script(url: str, names: list[str], command_line: str) -> str:
    """A script for iPXE's BIOS build, which knows multiboot."""
    lines = [f"kernel {url}/{names[0]} {command_line}".rstrip(), *(f"module {url}/{name}" for name in names[1:])]
    return "\n".join(["#!ipxe", *lines, "boot"]) + "\n"
