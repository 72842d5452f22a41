"""What a machine is, asked of the machine itself: CPUID, the microcode's patch level, and SMBIOS for the firmware."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.scenario import places, steps
from harness.scenario.asm import Assembler, Snippet
from harness.scenario.steps import Record, Status, Step
from harness.svm.cpuid import Cpuid
from harness.trace.file import SILICON, SYNTHETIC

PATCH_LEVEL = 0x8B
"""The MSR that holds the microcode's patch level."""
TABLE_MAX = 2048  # of the SMBIOS tables: the first ones are the firmware, the system and the board
ANCHOR_BYTES = 32
EMULATORS = ("qemu", "bochs", "kvm", "xen", "vmware", "virtualbox", "hyper-v", "seabios", "amazon", "google")
SCAN = """
    mov esi, 0xf0000
1:  mov eax, [rsi]
    cmp eax, 0x5f4d535f          /* _SM_ */
    je 2f
    cmp eax, 0x334d535f          /* _SM3 */
    je 2f
    add esi, 16
    cmp esi, 0x100000
    jb 1b
    ret
2:  mov ecx, 32
"""
COPY = "rep movsb\nret"

Ask = Callable[[Sequence[Step]], list[Record]]
"""Has steps done on the machine."""


@dataclass(frozen=True)
class Facts:
    """What the machine says of itself; "" where it says nothing."""

    microcode: str = ""
    firmware: str = ""
    board: str = ""


def ask_facts(ask: Ask, assembler: Assembler) -> Facts:
    """Asks the machine. What cannot be read is left empty: a fault there is an answer, too."""
    value, _ = steps.decode_msr(ask([steps.rdmsr(PATCH_LEVEL)])[0])
    microcode = "" if value is None else f"{value & 0xFFFF_FFFF:08X}h"
    place = places.SCRATCH
    anchor = _run(ask, assembler, SCAN + COPY, {"rdi": place}, ANCHOR_BYTES)
    table, size = _table_of(anchor)
    if not size:
        return Facts(microcode)
    size = min(size, TABLE_MAX)
    return Facts(microcode, *_strings(_run(ask, assembler, COPY, {"rsi": table, "rdi": place, "rcx": size}, size)))


def nature_of(target: str, cpuid: Cpuid, facts: Facts, *, emulated: bool = False) -> tuple[str, str]:
    """Whether a processor itself has answered, and what speaks for it."""
    if not target.startswith("metal:"):
        return SYNTHETIC, f"{target} is no bare machine"
    if emulated:
        return SYNTHETIC, "the lab file says that the machine is emulated"
    if cpuid.has("HYPERVISOR"):
        return SYNTHETIC, "CPUID Fn0000_0001 ECX[31] says that there is a hypervisor"
    said = f"{cpuid.vendor} {cpuid.brand} {facts.firmware} {facts.board}".lower()
    if named := next((name for name in EMULATORS if re.search(rf"\b{name}\b", said)), None):
        return SYNTHETIC, f"it calls itself {named}"
    if cpuid.vendor not in ("AuthenticAMD", "HygonGenuine"):
        return SYNTHETIC, f"its vendor is {cpuid.vendor or 'not told'}"
    return SILICON, "a bare machine, and no hypervisor in CPUID"


def _run(ask: Ask, assembler: Assembler, code: str, registers: dict[str, int], size: int) -> bytes:
    """Has code copy something into the arena; what lies there then, or b"" if it did not come to its end."""
    placed = assembler.one(Snippet(code, 64, places.L1_CODE + 16)).code
    fill = steps.mem_fill(places.SCRATCH, size, 0)
    run = steps.code(places.L1_CODE + 16, registers)
    records = ask([fill, *steps.mem_write(places.L1_CODE + 16, placed), run, steps.mem_read(places.SCRATCH, size)])
    return records[-1].body if records[-1].status is Status.OK and records[-2].status is Status.OK else b""


def _table_of(anchor: bytes) -> tuple[int, int]:
    """Where SMBIOS's structures lie below 4 GiB, and their size in bytes; 0 if nowhere."""
    if anchor[:5] == b"_SM3_":
        table, size = int.from_bytes(anchor[16:24], "little"), int.from_bytes(anchor[12:16], "little")
    elif anchor[:4] == b"_SM_":
        table, size = int.from_bytes(anchor[24:28], "little"), int.from_bytes(anchor[22:24], "little")
    else:
        return 0, 0
    return (table, size) if 0 < table < 1 << 32 else (0, 0)


def _strings(table: bytes) -> tuple[str, str]:
    """The firmware (vendor, version, date) and the machine (maker, product, board), of the first structures."""
    found: dict[int, list[str]] = {}
    at = 0
    while at + 4 <= len(table) and table[at] != 127 and table[at + 1] >= 4:
        kind, length = table[at], table[at + 1]
        end = table.find(b"\0\0", at + length)
        if end < 0:
            break
        texts = [text.decode("ascii", "replace").strip() for text in table[at + length : end].split(b"\0")]
        fields = {0: (4, 5, 8), 1: (4, 5), 2: (4, 5)}.get(kind, ())
        numbers = [table[at + field] for field in fields if field < length and at + field < len(table)]
        found.setdefault(kind, [texts[n - 1] for n in numbers if 0 < n <= len(texts) and texts[n - 1]])
        at = end + 2
    machine = dict.fromkeys([*found.get(1, []), *found.get(2, [])])
    return _printable(" ".join(found.get(0, []))), _printable(" ".join(machine))


def _printable(text: str) -> str:
    return "".join(each if " " <= each <= "~" else "?" for each in text)[:200]
