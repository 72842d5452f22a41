"""The smallest guest that Xen starts as PVH: it halts. Only whether Xen lets it be created is of interest."""

from __future__ import annotations

import struct

LOAD_AT = 0x100000
PHYS32_ENTRY = 18
CODE = bytes([0xFA, 0xF4, 0xEB, 0xFD])  # cli; 1: hlt; jmp 1b
PT_LOAD, PT_NOTE = 1, 4
HEADER_BYTES, PROGRAM_HEADER_BYTES = 64, 56


def guest() -> bytes:
    """A 64-bit ELF file with a note that says where its 32-bit entry point is."""
    note = struct.pack("<III4sI", 4, 4, PHYS32_ENTRY, b"Xen\0", LOAD_AT)
    note_at = HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES
    code_at = 0x1000
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQ", 2, 62, 1, LOAD_AT, HEADER_BYTES, 0)
    header += struct.pack("<IHHHHHH", 0, HEADER_BYTES, PROGRAM_HEADER_BYTES, 2, 0, 0, 0)
    load = _program_header(PT_LOAD, 5, code_at, LOAD_AT, len(CODE), 0x1000)
    notes = _program_header(PT_NOTE, 4, note_at, 0, len(note), 4)
    image = header + load + notes + note
    return image + bytes(code_at - len(image)) + CODE


def _program_header(kind: int, flags: int, offset: int, address: int, size: int, align: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, size, size, align)
