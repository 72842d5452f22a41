"""The executor's files as boot loaders read them: headers where they are looked for, and a size that stays small."""

from __future__ import annotations

import struct

import pytest

from tests.executor.elf import BUILD_ID, PVH_ENTRY, elf, notes, symbols
from tests.executor.machines import BUILD

SIZE_MAX = 64 * 1024
LOAD_ADDRESS, LOAD_END = 0x10_0000, 0x40_0000  # above lies the place for bundles, above that the arena
ELFS = ["executor.elf", "executor64.elf"]
CYLINDER_BYTES = 16 * 63 * 512


def test_code_and_data_are_small() -> None:
    at = symbols("executor64.elf")

    size = at["image_file_end"] - at["image_start"]

    assert 0 < size <= SIZE_MAX
    assert (BUILD / "executor.bin").stat().st_size == size


@pytest.mark.parametrize("name", ELFS)
def test_it_loads_between_1_and_4_mib(name: str) -> None:
    loaded = [segment for segment in elf(name).iter_segments() if segment["p_type"] == "PT_LOAD"]

    (image,) = loaded
    assert image["p_vaddr"] == image["p_paddr"] == LOAD_ADDRESS
    assert image["p_paddr"] + image["p_memsz"] <= LOAD_END


def test_qemus_multiboot_loader_takes_the_elf() -> None:
    header = elf("executor.elf").header

    assert elf("executor.elf").elfclass == 32
    assert (header["e_machine"], header["e_type"]) == ("EM_386", "ET_EXEC")
    assert header["e_entry"] == symbols("executor64.elf")["entry_multiboot"]


def test_the_multiboot_header_is_within_the_first_8_kib() -> None:
    data = (BUILD / "executor.elf").read_bytes()[:8192]

    places = [at for at in range(0, len(data) - 11, 4) if data[at : at + 4] == struct.pack("<I", 0x1BADB002)]

    (at,) = places
    magic, flags, checksum = struct.unpack_from("<III", data, at)
    assert (magic + flags + checksum) & 0xFFFF_FFFF == 0
    assert flags == 3, "page-aligned modules and a memory map; addresses are the ELF's"


def test_the_multiboot2_header_is_within_the_first_32_kib() -> None:
    data = (BUILD / "executor.elf").read_bytes()[:32768]

    places = [at for at in range(0, len(data) - 15, 8) if data[at : at + 4] == struct.pack("<I", 0xE85250D6)]

    (at,) = places
    magic, architecture, length, checksum = struct.unpack_from("<IIII", data, at)
    assert (magic + architecture + length + checksum) & 0xFFFF_FFFF == 0
    assert architecture == 0, "32-bit protected mode"
    tags, offset = [], at + 16
    while offset < at + length:
        kind, tag_flags, size = struct.unpack_from("<HHI", data, offset)
        tags.append((kind, tag_flags, size))
        offset += (size + 7) & ~7
    assert tags == [(6, 0, 8), (0, 0, 8)], "modules page-aligned, then the end"
    assert offset == at + length


@pytest.mark.parametrize("name", ELFS)
def test_the_pvh_note_names_the_entry(name: str) -> None:
    entry = notes(name)[PVH_ENTRY]

    assert int.from_bytes(entry, "little") == symbols("executor64.elf")["entry_pvh"]
    assert len(entry) == 4


def test_both_elfs_carry_the_same_build_id() -> None:
    ids = [notes(name)[BUILD_ID] for name in ELFS]

    assert ids[0] == ids[1]
    assert (BUILD / "executor.bin").read_bytes().find(ids[0]) > 0


def test_the_disk_image_is_a_boot_sector_the_executor_and_whole_cylinders() -> None:
    disk, flat = (BUILD / "disk.img").read_bytes(), (BUILD / "executor.bin").read_bytes()

    executor_sectors, bundle_sectors, bundle_bytes, entry = struct.unpack_from("<4I", disk, 0x1A0)

    assert disk[510:512] == b"\x55\xaa"
    assert len(disk) % CYLINDER_BYTES == 0
    assert executor_sectors == -(-len(flat) // 512)
    assert disk[512 : 512 + len(flat)] == flat
    assert (bundle_sectors, bundle_bytes) == (0, 0)
    assert entry == symbols("executor64.elf")["entry_multiboot"]
