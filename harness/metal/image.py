"""Boot images and boot lines, made with the tools that Debian has."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.metal.error import MetalError
from harness.metal.lines import BUNDLE, ELF, grub_entry

DEADLINE_S = 120.0
PACKAGES = {
    "grub-mkrescue": "grub-common grub-pc-bin xorriso mtools",
    "grub-mkstandalone": "grub-common grub-efi-amd64-bin",
}


def make_iso(image: Path, executor: Path, command_line: str = "", bundle: Path | None = None) -> None:
    """An ISO image that BIOS machines boot, and UEFI ones where grub-efi-amd64-bin is here. Raises MetalError."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as work:
        boot = Path(work) / "boot"
        (boot / "grub").mkdir(parents=True)
        names = _copy(boot, executor, bundle)
        entry = grub_entry("nsvm", [f"/boot/{name}" for name in names], command_line)
        (boot / "grub" / "grub.cfg").write_text(f"{SERIAL}set timeout=0\n{entry}")
        built = Path(work) / "image.iso"
        _run(["grub-mkrescue", "--product-name=nsvm", "-o", str(built), work])
        _place(built, image)


def make_efi(image: Path, executor: Path, command_line: str = "", bundle: Path | None = None) -> None:
    """A PE file with GRUB, its configuration and the executor in it, for UEFI machines. Raises MetalError."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as work:
        names = _copy(Path(work), executor, bundle)
        entry = grub_entry("nsvm", [f"(memdisk)/{name}" for name in names], command_line)
        config = Path(work) / "grub.cfg"
        config.write_text(f"{SERIAL}set timeout=0\n{entry}")
        built = Path(work) / "image.efi"
        modules = "multiboot2 serial terminal echo normal memdisk tar"
        files = [f"{name}={work}/{name}" for name in names]
        _run(
            ["grub-mkstandalone", "-O", "x86_64-efi", "--fonts=", "--locales=", "--themes=", f"--modules={modules}",
             "-o", str(built), f"boot/grub/grub.cfg={config}", *files]
        )  # fmt: skip
        _place(built, image)


SERIAL = "terminal_input console\nterminal_output console\n"
"""GRUB must leave the serial line alone: what we send there would drive its menu."""


def _copy(folder: Path, executor: Path, bundle: Path | None) -> list[str]:
    shutil.copy(executor, folder / ELF)
    if bundle is None:
        return [ELF]
    shutil.copy(bundle, folder / BUNDLE)
    return [ELF, BUNDLE]


def _place(built: Path, image: Path) -> None:
    try:
        image.parent.mkdir(parents=True, exist_ok=True)
        fresh = image.with_name(f".{image.name}.new")
        shutil.copyfile(built, fresh)
        fresh.replace(image)
    except OSError as error:
        raise MetalError(f"{image} cannot be written: {error.strerror}") from None


def _run(argv: list[str]) -> None:
    try:
        ran = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S, errors="replace"
        )
    except FileNotFoundError:
        raise MetalError(f"{argv[0]} is not here: apt-get install {PACKAGES[argv[0]]}") from None
    except subprocess.TimeoutExpired:
        raise MetalError(f"{argv[0]} did not end within {DEADLINE_S:.0f} s") from None
    if ran.returncode:
        lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise MetalError(f"{argv[0]}: {lines[-1][:200]} (it needs {PACKAGES[argv[0]]})")
