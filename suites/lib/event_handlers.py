"""Guests that take events themselves: an IDT whose vectors lead each to a handler of its own, and the frames.

Each handler is a VMMCALL, so the RIP of that exit tells the vector and RSP the frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness import L1, VMEXIT, Exit, Guest, Match

INTERRUPT_GATE, TRAP_GATE = 0x8E, 0x8F
NOT_PRESENT_GATE, NO_GATE = 0x0E, 0x80  # the second one is a present descriptor of type 0, which no gate has
DPL3 = 0x60

CODE0, DATA0, CODE3, DATA3, ABSENT, TSS, ABSENT3 = 0x08, 0x10, 0x1B, 0x23, 0x28, 0x30, 0x3B
GDT_ENTRIES = 8
BEYOND_GDT = 0x48
NO_PAGE = 0x1_0000_2000  # a linear address of long mode that the harness's tables do not map
NOT_CANONICAL = 0x1000_0000_0000_0000
_CODE64, _CODE32, _DATA = 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
_RING3, _PRESENT = 0x6000_0000_0000, 0x8000_0000_0000

LONG_MODES = ("long64", "compat32")
STACK_TOP = 0x85_8000  # where the guests of the harness have it, but in real mode
REAL_STACK_TOP, REAL_BASE = 0xF000, 0x2_0000
REAL_STUBS = 0x4000  # as an offset in the segment of a real-mode guest
_STUB = b"\x0f\x01\xd9\x90"  # VMMCALL and NOP
_READ = 0x100


@dataclass(frozen=True)
class Frame:
    """What delivery pushed. `sp` and `ss` are None where nothing of the kind is pushed."""

    ip: int
    cs: int
    flags: int
    sp: int | None
    ss: int | None
    error: int | None


class EventGuest:
    """A guest with handlers. `at(vector)` is a handler's address; `frame(exit)` is read where its RSP stands.

    `gates` gives single vectors another attribute byte, `idt_limit` another limit. With `cpl` 3 the handlers run at
    CPL 0 on a stack of their own, `inner_stack_top`, from a TSS that VMLOAD loads.
    """

    def __init__(
        self,
        l1: L1,
        code: str,
        *,
        mode: str = "long64",
        cpl: int = 0,
        gate: int = INTERRUPT_GATE,
        gates: dict[int, int] | None = None,
        idt_limit: int | None = None,
        **options: object,
    ) -> None:
        self.mode, self.cpl = mode, cpl
        self.long = mode in LONG_MODES
        self.real = mode == "real16"
        self.guest: Guest = l1.guest(code, mode=mode, cpl=cpl, **options)  # type: ignore[arg-type]
        self.idt, self.gdt = l1.scratch(1), l1.scratch(1)
        self.inner_stack_top = l1.scratch(1) + 0x1000
        self._stubs = REAL_STUBS if self.real else l1.scratch(1)
        self.guest.write(REAL_BASE + REAL_STUBS if self.real else self._stubs, _STUB * 256)
        table = b"".join(self._gate(self.at(n), (gates or {}).get(n, gate)) for n in range(256))
        limit = len(table) - 1 if idt_limit is None else idt_limit
        fields = {"idtr.base": self.idt, "idtr.limit": limit}
        self.guest.write(self.idt, table)
        if not self.real:
            self.guest.write(self.gdt, self._descriptors())
            fields |= {"gdtr.base": self.gdt, "gdtr.limit": GDT_ENTRIES * 8 - 1}
        if cpl:
            fields |= self._task(l1.scratch(1))
            fields |= {"cs.selector": CODE3, "ss.selector": DATA3, "ds.selector": DATA3, "es.selector": DATA3}
        self.guest.vmcb.update(fields)
        self.guest.vmcb.update(dict(options.get("vmcb") or {}))  # type: ignore[call-overload]

    def __getitem__(self, label: str) -> int:
        return self.guest[label]

    def at(self, vector: int) -> int:
        """The address of a vector's handler."""
        return self._stubs + vector * len(_STUB)

    def gate_address(self, vector: int) -> int:
        """Where a vector's gate lies."""
        return self.idt + vector * (16 if self.long else 4 if self.real else 8)

    @property
    def stack_top(self) -> int:
        """Linear address above the first byte that delivery pushes, with the stack aligned as the harness has it."""
        if self.cpl:
            return self.inner_stack_top
        return REAL_BASE + REAL_STACK_TOP if self.real else STACK_TOP

    def run(self) -> Exit:
        """Runs L2 and reads what is on the handlers' stack."""
        return self.guest.run(vmload=bool(self.cpl), read={"stack": (self.stack_top - _READ, _READ)})

    def took(self, exit: Exit, vector: int, **more: object) -> Match:
        """True if L2 reached that vector's handler."""
        return exit.matches(code=VMEXIT.VMMCALL, rip=self.at(vector), **more)  # type: ignore[arg-type]

    def frame(self, exit: Exit, *, error: bool = False) -> Frame:
        """The frame at the handler's RSP; `error` says whether an error code lies below it."""
        width = 8 if self.long else 2 if self.real else 4
        base = REAL_BASE if self.real else 0
        offset = base + exit.vmcb["rsp"] - (self.stack_top - _READ)
        count = int(error) + (5 if self.long or self.cpl else 3)
        if not 0 <= offset <= _READ - count * width:
            return Frame(-1, -1, -1, None, None, None)
        stack = exit.memory["stack"][offset:]
        words = [int.from_bytes(stack[n * width : n * width + width], "little") for n in range(count)]
        code = words.pop(0) & 0xFFFF_FFFF if error else None
        inner = words[3:] or [None, None]
        return Frame(words[0], words[1] & 0xFFFF, words[2], inner[0], inner[1], code)

    def depth(self, exit: Exit) -> int:
        """How many bytes were pushed."""
        return self.stack_top - (REAL_BASE if self.real else 0) - exit.vmcb["rsp"]

    def pushed(self, *, error: bool = False) -> int:
        """How many bytes a delivery pushes."""
        words = int(error) + (5 if self.long or self.cpl else 3)
        return words * (8 if self.long else 2 if self.real else 4)

    def _gate(self, offset: int, attributes: int) -> bytes:
        if self.real:
            return struct.pack("<HH", offset, REAL_BASE >> 4)
        low, high, upper = offset & 0xFFFF, offset >> 16 & 0xFFFF, offset >> 32
        gate = struct.pack("<HHBBH", low, CODE0, 0, attributes, high)
        return gate + struct.pack("<II", upper, 0) if self.long else gate

    def _descriptors(self) -> bytes:
        code = _CODE64 if self.long else _CODE32
        absent = _DATA & ~_PRESENT
        table = [0, code, _DATA, code | _RING3, _DATA | _RING3, absent, 0, absent | _RING3]
        return struct.pack(f"<{GDT_ENTRIES}Q", *table)

    def _task(self, tss: int) -> dict[str, int]:
        if self.long:
            image = struct.pack("<IQ", 0, self.inner_stack_top)
        else:
            image = struct.pack("<III", 0, self.inner_stack_top, DATA0)
        self.guest.write(tss, image)
        return {"tr.selector": TSS, "tr.base": tss, "tr.limit": 0x67, "tr.attrib": 0x8B}
