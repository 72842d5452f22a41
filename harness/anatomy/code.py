"""Machine code as text."""

from __future__ import annotations

from collections.abc import Iterator

from iced_x86 import Decoder, Formatter, FormatterSyntax

from harness.guest.guest import BITS, Guest
from harness.judge.exit import Exit
from harness.judge.expect import hexadecimal
from harness.record import CodeLine

CODE_LINES_MAX = 40


def instructions(code: bytes, bits: int, start: int) -> Iterator[tuple[int, bytes, str]]:
    """Address, bytes and text of each instruction; `bits` is 16, 32 or 64."""
    formatter = Formatter(FormatterSyntax.INTEL)
    for each in Decoder(bits, code, ip=start):
        yield each.ip, code[each.ip - start : each.ip - start + each.len], formatter.format(each)


def disassemble(guest: Guest, exit: Exit | None, most: int = CODE_LINES_MAX) -> list[CodeLine]:
    """The guest's code, with labels and the place where RIP stood at the exit marked."""
    bits = BITS[guest.mode]
    start = 0 if bits == 16 else guest.code_base
    names: dict[int, list[str]] = {}
    for name, address in guest.assembled.labels.items():
        names.setdefault(address, []).append(name)
    lines = []
    for at, data, text in instructions(guest.code, bits, start):
        marks = [f"{name}:" for name in sorted(names.get(at, []))]
        if exit is not None and exit.rip == at:
            marks.append("saved RIP")
        lines.append(CodeLine(addr=hexadecimal(at, 8), bytes=data.hex(" "), text=text, mark=" ".join(marks)))
        if len(lines) == most:
            break
    return lines
