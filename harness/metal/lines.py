"""The lines by which GRUB, iPXE and kexec boot the executor."""

from __future__ import annotations

import shlex

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


def kexec_line(program: str, paths: list[str], command_line: str) -> str:
    """Loads the executor, and its bundle behind it, for the kexec -e that follows."""
    module = f" --module={shlex.quote(paths[1])}" if len(paths) > 1 else ""
    line = f" --command-line={shlex.quote(command_line)}" if command_line else ""
    return f"{program} -l --type=multiboot-x86{line}{module} {shlex.quote(paths[0])}"
