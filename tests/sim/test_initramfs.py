"""The cpio archive, read back."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sim.initramfs import MAGIC, TRAILER, Entry, archive, character_device, file, folder, link

NAMES = st.text(st.characters(codec="ascii", exclude_characters="/\0", categories=("L", "N")), min_size=1, max_size=9)


def read(data: bytes) -> Iterator[tuple[str, Entry, int]]:
    """Path, entry and inode number, up to the trailer."""
    at = 0
    while True:
        assert data[at : at + 6] == MAGIC and at % 4 == 0
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        number, mode, _, _, _, time, size, _, _, major, minor, name_size, _ = fields
        assert time == 0
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) // 4 * 4
        path = name[:-1].decode()
        if path == TRAILER:
            return
        yield path, Entry(mode, data[start : start + size], (major, minor)), number
        at = (start + size + 3) // 4 * 4


def test_everything_comes_back() -> None:
    entries = {
        "init": link("/bin/busybox"),
        "bin/busybox": file(b"\x7fELF", 0o755),
        "tmp": folder(0o1777),
        "dev/console": character_device(5, 1),
    }
    found = {path: entry for path, entry, _ in read(archive(entries))}
    assert found == entries | {"bin": folder(), "dev": folder()}


def test_folders_come_before_what_is_in_them() -> None:
    paths = [path for path, _, _ in read(archive({"a/b/c": file(""), "a.x": file("")}))]
    assert paths.index("a") < paths.index("a/b") < paths.index("a/b/c")


def test_its_bytes_depend_on_its_content_only() -> None:
    entries = {f"f{number}": file(str(number)) for number in range(20)}
    backwards = dict(reversed(entries.items()))
    assert archive(entries) == archive(backwards)
    assert hashlib.sha256(archive({"x/y": file("hello\n")})).hexdigest() == (
        "796752a8bd8251cc341bbe031ab1f1acfada995338078b5d784417c81b104f26"
    )


@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=6))
def test_any_files_come_back(content: dict[str, bytes]) -> None:
    found = list(read(archive({name: file(data) for name, data in content.items()})))
    assert {path: entry.data for path, entry, _ in found} == content
    assert len({number for _, _, number in found}) == len(found)
    assert all(stat.S_ISREG(entry.mode) for _, entry, _ in found)


@pytest.mark.parametrize("path", ["", "/init", "a//b", "a/../b", "./a", "TRAILER!!!"])
def test_paths_that_cannot_be_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in an initramfs"):
        archive({path: file("")})
