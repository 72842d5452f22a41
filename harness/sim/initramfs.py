"""An initramfs, written as a cpio archive ("newc") whose bytes depend on its content only."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

MAGIC = b"070701"
TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file, folder, link or device."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(data: bytes | str, mode: int = 0o644) -> Entry:
    """A file."""
    return Entry(stat.S_IFREG | mode, data.encode() if isinstance(data, str) else data)


def folder(mode: int = 0o755) -> Entry:
    """A folder."""
    return Entry(stat.S_IFDIR | mode)


def link(target: str) -> Entry:
    """A symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device."""
    return Entry(stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Mapping[str, Entry]) -> bytes:
    """The cpio archive. Paths have no leading slash; folders above them are made if they are not given."""
    whole = dict(entries)
    for path in entries:
        _check(path)
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                whole.setdefault(str(parent), folder())
    out = bytearray()
    for number, path in enumerate(sorted(whole), 1):
        _append(out, number, path, whole[path])
    _append(out, 0, TRAILER, Entry(0))
    out += bytes(-len(out) % 512)
    return bytes(out)


def _check(path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts) or path == TRAILER:
        raise ValueError(f"{path!r} cannot stand in an initramfs")


def _append(out: bytearray, number: int, path: str, entry: Entry) -> None:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, major, minor, len(name), 0)
    out += MAGIC + b"".join(b"%08X" % field for field in fields) + name
    out += bytes(-len(out) % 4)
    out += entry.data
    out += bytes(-len(out) % 4)
