"""`nsvm image`: boot images of the executor, and the lines that boot them, for machines that nsvm does not drive."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from harness.cli import machine
from harness.cli.console import EXIT_OK, HarnessError, UserError
from harness.cli.debian import Need, ensure, missing_build_tools
from harness.cli.paths import LOG

KINDS = ("iso", "pxe", "kexec", "efi")
TOOLS = {
    "iso": (("grub-mkrescue", "grub-common"), ("xorriso", "xorriso"), ("mformat", "mtools")),
    "efi": (("grub-mkstandalone", "grub-common"),),
}
MODULES = {
    "iso": (Path("/usr/lib/grub/i386-pc"), "grub-pc-bin"),
    "efi": (Path("/usr/lib/grub/x86_64-efi"), "grub-efi-amd64-bin"),
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "image",
        parents=[common],
        help="write boot images of the executor: ISO, PXE, kexec, UEFI",
        description="Writes a boot image into a folder, and prints the GRUB, iPXE or kexec lines that boot it. The "
        "executor then waits at the machine's serial line.",
    )
    parser.add_argument("kind", choices=KINDS, help="iso: BIOS, and UEFI with grub-efi-amd64-bin; efi: one PE file")
    parser.add_argument("-o", dest="folder", type=Path, required=True, metavar="DIR", help="the folder to write into")
    parser.add_argument("--append", default="", metavar="TEXT", help="the executor's command line, as uart=0x2f8")
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="a bundle, as the boot module")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Builds, writes, and prints the lines."""
    from harness.metal import image
    from harness.metal.error import MetalError
    from harness.metal.lines import BUNDLE, ELF, grub_entry, ipxe_script, kexec_line

    if args.bundle is not None and not args.bundle.is_file():
        raise UserError(f"--bundle {args.bundle}: no such file")
    if "\n" in args.append or len(args.append) > 1024:
        raise UserError("--append: one line of at most 1024 characters")
    ensure([*missing_build_tools(), *_tools(args.kind)], may_install=not args.no_install, log=LOG / "apt.log")
    machine.build_executor()
    folder = args.folder
    names = [ELF, *([BUNDLE] if args.bundle else [])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if args.kind == "iso":
            image.make_iso(folder / "nsvm.iso", machine.EXECUTOR_ELF, args.append, args.bundle)
            print(f"# {folder / 'nsvm.iso'}: a CD, a virtual CD, or a USB stick:\n"
                  f"dd if={folder / 'nsvm.iso'} of=/dev/sdX bs=1M conv=fsync")  # fmt: skip
            return EXIT_OK
        if args.kind == "efi":
            image.make_efi(folder / "nsvm.efi", machine.EXECUTOR_ELF, args.append, args.bundle)
            print(f"# {folder / 'nsvm.efi'}: UEFI HTTP boot, or as EFI/BOOT/BOOTX64.EFI on a FAT stick; from GRUB:\n"
                  "chainloader /nsvm.efi")  # fmt: skip
            return EXIT_OK
        shutil.copy(machine.EXECUTOR_ELF, folder / ELF)
        if args.bundle is not None:
            shutil.copy(args.bundle, folder / BUNDLE)
        if args.kind == "kexec":
            print("# as root on the machine; it ends what runs there\n"
                  + kexec_line("kexec", names, args.append) + "\nkexec -e")  # fmt: skip
            return EXIT_OK
        entry = grub_entry("nsvm", [f"/{name}" for name in names], args.append)
        (folder / "grub.cfg").write_text(f"set timeout=0\n{entry}")
        script = ipxe_script("tftp://${next-server}", names, args.append)
        (folder / "boot.ipxe").write_text(script)
        print(f"# {folder / 'grub.cfg'}, for GRUB started over the network\n{entry}")
        print(f"# {folder / 'boot.ipxe'}\n{script}", end="")
    except MetalError as error:
        raise HarnessError(str(error)) from None
    except OSError as error:
        raise UserError(f"-o {folder}: {error.strerror}") from None
    return EXIT_OK


def _tools(kind: str) -> list[Need]:
    tools = [each for each in TOOLS.get(kind, ()) if not shutil.which(each[0])]
    missing = [Need(tool, package, "makes boot images") for tool, package in tools]
    folder, package = MODULES.get(kind, (Path("/"), ""))
    if not folder.is_dir():
        missing.append(Need(f"GRUB for {folder.name}", package, "boots the image"))
    return missing
