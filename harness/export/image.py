"""A reproducer as files: the bundle, the ELF with the bundle in it, and an ISO image."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness.export.captured import Captured

BUNDLE_PA = 0x40_0000
BUNDLE_BYTES_MAX = 4 << 20
_MAGIC = b"NSVMSELF"
_EMBEDDED = b"NSVM-EMBEDDED-1\0"
_PAGE = 0x1000
_KEPT = {"PT_LOAD": 1, "PT_NOTE": 4}
GRUB_DEADLINE_S = 120.0
DATE = "2020010100000000"
"""Of all that is in an ISO image, so that it is the same each time."""


class ExportError(Exception):
    """A reproducer cannot be made. One line for people."""


def bundle(told: Captured, text: Sequence[str]) -> bytes:
    """The reproducer's own data (docs/link-protocol.md, *Reproducers*). `text` is printed at its beginning."""
    said = "".join(f"{line}\r\n" for line in text).encode("ascii", "replace")
    parts = [_MAGIC, struct.pack("<II", 1, len(said)), said, struct.pack("<I", len(told.requests))]
    for request in told.requests:
        parts += [struct.pack("<I", len(request)), request]
    parts.append(struct.pack("<I", len(told.checks)))
    parts += [check.encode() for check in told.checks]
    data = b"".join(parts)
    if len(data) > BUNDLE_BYTES_MAX:
        raise ExportError(f"the test writes too much memory: its reproducer would have {len(data)} bytes of data")
    return data


def with_bundle(executor: Path, data: bytes) -> bytes:
    """The executor's ELF file with the bundle as a segment of its own. Raises ExportError."""
    with executor.open("rb") as stream:
        elf = ELFFile(stream)
        header = elf.header
        segments = [(each.header, bytearray(each.data())) for each in elf.iter_segments()]
    if header.e_machine != "EM_386":
        raise ExportError(f"{executor} is not the 32-bit ELF file of the executor")
    marked = [(segment, at) for each, segment in segments if (at := segment.find(_EMBEDDED)) >= 0]
    if len(marked) != 1:
        raise ExportError(f"{executor} takes no bundle: build it again (make -C guest_payloads/executor)")
    segment, at = marked[0]
    struct.pack_into("<QQ", segment, at + len(_EMBEDDED), BUNDLE_PA, len(data))
    table: list[tuple[int, ...]] = []
    body = bytearray()
    for each, content in segments:
        if each.p_type not in _KEPT:
            continue
        # The note lies inside the image, too: it is not written twice.
        lies = next((o + each.p_paddr - p for k, o, _, p, n, *_ in table if k == 1 and p <= each.p_paddr < p + n), None)
        offset = _PAGE + len(body) if lies is None else lies
        if lies is None:
            body += content + bytes(-len(content) % _PAGE)
        kind, place = _KEPT[each.p_type], (each.p_vaddr, each.p_paddr)
        table.append((kind, offset, *place, len(content), each.p_memsz, each.p_flags, each.p_align))
    table.append((1, _PAGE + len(body), BUNDLE_PA, BUNDLE_PA, len(data), len(data), 6, _PAGE))
    body += data
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    head = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, header.e_entry, 52, 0, 0, 52, 32, len(table), 0, 0, 0)
    file = head + b"".join(struct.pack("<8I", *row) for row in table)
    return file + bytes(_PAGE - len(file)) + bytes(body)


def iso(elf: bytes, out: Path) -> None:
    """An ISO image that boots the ELF file by GRUB from a BIOS. Raises ExportError."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as work:
        boot = Path(work) / "root" / "boot"
        (boot / "grub").mkdir(parents=True)
        (boot / "reproducer.elf").write_bytes(elf)
        (boot / "grub" / "grub.cfg").write_text(GRUB_CONFIG)
        for path in (boot / "reproducer.elf", boot / "grub" / "grub.cfg", boot / "grub", boot, boot.parent):
            os.utime(path, (0, 0))
        built = Path(work) / "reproducer.iso"
        command = [
            "grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "--fonts=", "--locales=", "--themes=", "--compress=no",
            "--install-modules=multiboot2 normal", "-o", str(built), str(boot.parent),
            "--", "-volume_date", "all_file_dates", DATE, "-volume_date", "uuid", DATE, "-volume_date", "c", DATE,
            "-volume_date", "m", DATE,
        ]  # fmt: skip
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1577836800", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GRUB_DEADLINE_S,
                env=environment,
            )  # fmt: skip
        except FileNotFoundError:
            raise ExportError(
                "grub-mkrescue is missing: apt-get install grub-common grub-pc-bin xorriso mtools (or --no-iso)"
            ) from None
        except subprocess.TimeoutExpired:
            raise ExportError(f"grub-mkrescue did not end within {GRUB_DEADLINE_S:.0f} s") from None
        if done.returncode or not built.exists():
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it says nothing")
            raise ExportError(f"grub-mkrescue: {last[:200]} (it needs grub-pc-bin, xorriso and mtools)")
        shutil.copyfile(built, out)


GRUB_CONFIG = """set timeout=0
menuentry "nsvm reproducer" {
    multiboot2 /boot/reproducer.elf
    boot
}
"""
