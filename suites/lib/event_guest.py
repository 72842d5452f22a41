"""A guest that takes events itself, in every mode: a handler for each vector, and the frames that deliveries push.

Without `handlers` each vector has a handler of its own, which is a VMMCALL, so the RIP of that exit tells the vector.
`handlers` leads vectors to labels of the guest's code instead, and all others to the label `other`. RSP tells the
frame.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from harness import L1, VMEXIT, Exit, Guest, Match, Vmcb
from harness.svm import INTERCEPTS
from suites.lib.event_tables import CODE32, CODE64, DATA0, DATA32, INTERRUPT_GATE, LONG_MODES, WIDTH, with_handlers

DPL3 = 0x60
CODE3, DATA3, ABSENT, TSS, ABSENT3 = 0x1B, 0x23, 0x28, 0x30, 0x3B
BEYOND_GDT = 0x48
NO_PAGE = 0x1_0000_2000  # a linear address of long mode that the harness's tables do not map
NOT_CANONICAL = 0x1000_0000_0000_0000
MODES = ("long64", "compat32", "pae32", "paged32", "prot32", "real16")
_RING3, _PRESENT = 0x6000_0000_0000, 0x8000_0000_0000

REAL_STUBS = 0x4000  # as an offset in the segment of a real-mode guest
_STUB = b"\x0f\x01\xd9\x90"  # VMMCALL and NOP
_READ = 0x100
_WARM = "\nwarm: int 0xF5\nnop"


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

    `mapped`: L2 has been through a handler before, so that no page of a delivery is touched for the first time in the
    test's own run. An L0 maps pages at their first touch, and what it does with an event whose delivery is cut short by
    that is another question than the test's, with an answer that would depend on what ran before.
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
        handlers: Mapping[int, str] | None = None,
        mapped: bool = False,
        **options: object,
    ) -> None:
        self.mode, self.cpl = mode, cpl
        self.long = mode in LONG_MODES
        self.real = mode == "real16"
        code += _WARM * mapped
        self.guest: Guest = l1.guest(code, mode=mode, cpl=cpl, **options)  # type: ignore[arg-type]
        self.idt, self.gdt = pages = l1.scratch(1), l1.scratch(1)
        self._handlers = handlers
        self._base = self.guest.code_base if self.real else 0
        self._stubs = REAL_STUBS
        self.inner_stack_top = 0
        if handlers is None or cpl:
            self.inner_stack_top = l1.scratch(1) + 0x1000
        if handlers is None:
            self._stubs = REAL_STUBS if self.real else l1.scratch(1)
            self.guest.write(self._base + self._stubs, _STUB * 256)
        attributes = dict.fromkeys(range(256), gate) | (gates or {})
        descriptors = self._descriptors()
        with_handlers(
            l1, self.guest, self.at, attributes=attributes, limit=idt_limit, descriptors=descriptors, pages=pages
        )
        if cpl:
            self.guest.vmcb.update(self._task(l1.scratch(1)))
            self.guest.vmcb.update(
                {"cs.selector": CODE3, "ss.selector": DATA3, "ds.selector": DATA3, "es.selector": DATA3}
            )
        self.guest.vmcb.update(dict(options.get("vmcb") or {}))  # type: ignore[call-overload]
        if mapped:
            self._warm()

    def _warm(self) -> None:
        """One run through a handler without the test's event; then all is as before it."""
        before = Vmcb(bytearray(self.guest.vmcb.data))
        self.guest.vmcb.update({"rip": self.guest["warm"], "rflags": 2, "v_irq": 0, "eventinj": 0})
        field, bit = INTERCEPTS["intn"]  # else a test that intercepts INTn has seen no delivery
        self.guest.vmcb[field] &= ~(1 << bit)
        self.run()
        self.guest.vmcb = before
        self.guest.rewind()

    def __getitem__(self, label: str) -> int:
        return self.guest[label]

    @property
    def vmcb(self) -> Vmcb:
        """The guest's VMCB."""
        return self.guest.vmcb

    def at(self, vector: int) -> int:
        """The address of a vector's handler."""
        if self._handlers is not None:
            return self.guest[self._handlers.get(vector, "other")]
        return self._stubs + vector * len(_STUB)

    def gate_address(self, vector: int) -> int:
        """Where a vector's gate lies."""
        return self.idt + vector * WIDTH.get(self.mode, 8)

    @property
    def stack_top(self) -> int:
        """Linear address above the first byte that delivery pushes, with the stack aligned as the harness has it."""
        return self.inner_stack_top if self.cpl else self._base + self.guest.stack_top

    def setup(self, code: str, regs: Mapping[str, int] | None = None) -> None:
        """As the guest's own."""
        self.guest.setup(code, regs)

    def raise_interrupt(self, vector: int) -> None:
        """As the guest's own."""
        self.guest.raise_interrupt(vector)

    def raise_nmi(self) -> None:
        """As the guest's own."""
        self.guest.raise_nmi()

    def run(self, **options: object) -> Exit:
        """Runs L2 and reads what is on the handlers' stack. The options are the guest's own."""
        read = {"stack": (self.stack_top - _READ, _READ)} | dict(options.pop("read", {}))  # type: ignore[call-overload]
        return self.guest.run(**{"vmload": bool(self.cpl)} | options, read=read)  # type: ignore[arg-type]

    def took(self, exit: Exit, vector: int, **more: object) -> Match:
        """True if L2 reached that vector's handler."""
        return exit.matches(code=VMEXIT.VMMCALL, rip=self.at(vector), **more)  # type: ignore[arg-type]

    def frame(self, exit: Exit, *, error: bool = False) -> Frame:
        """The frame at the handler's RSP; `error` says whether an error code lies below it."""
        width = self._word
        offset = self._base + exit.vmcb["rsp"] - (self.stack_top - _READ)
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
        return self.stack_top - self._base - exit.vmcb["rsp"]

    def pushed(self, *, error: bool = False) -> int:
        """How many bytes a delivery pushes; 64-bit handlers get SS and RSP too."""
        return (int(error) + (5 if self.long or self.cpl else 3)) * self._word

    @property
    def _word(self) -> int:
        return 8 if self.long else 2 if self.real else 4

    def _descriptors(self) -> list[int] | None:
        if self.real:
            return None
        code = CODE64 if self.long else CODE32
        absent = DATA32 & ~_PRESENT
        return [0, code, DATA32, code | _RING3, DATA32 | _RING3, absent, 0, absent | _RING3]

    def _task(self, tss: int) -> dict[str, int]:
        if self.long:
            image = struct.pack("<IQ", 0, self.inner_stack_top)
        else:
            image = struct.pack("<III", 0, self.inner_stack_top, DATA0)
        self.guest.write(tss, image)
        return {"tr.selector": TSS, "tr.base": tss, "tr.limit": 0x67, "tr.attrib": 0x8B}
