"""Reading the executor's ELF files."""

from __future__ import annotations

from io import BytesIO

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from elftools.elf.segments import NoteSegment

from tests.executor.machines import BUILD

BUILD_ID = ("GNU", "NT_GNU_BUILD_ID")
PVH_ENTRY = ("Xen", 18)


def elf(name: str) -> ELFFile:
    return ELFFile(BytesIO((BUILD / name).read_bytes()))


def symbols(name: str) -> dict[str, int]:
    table = elf(name).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}


def notes(name: str) -> dict[tuple[str, str | int], bytes]:
    found = {}
    for segment in elf(name).iter_segments():
        if isinstance(segment, NoteSegment):
            for note in segment.iter_notes():
                found[note["n_name"], note["n_type"]] = note["n_descdata"]
    return found
