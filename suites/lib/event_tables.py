"""Descriptor tables that lead a guest's events to its own code, for every mode: an IDT (in real mode an IVT), a GDT."""

import struct

INTERRUPT_GATE, TRAP_GATE = 0x8E, 0x8F
NOT_PRESENT_GATE, NO_GATE = 0x0E, 0x80  # the second one is a present descriptor of type 0, which no gate has
CODE64, CODE32, DATA32 = 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
CODE0, DATA0 = 0x08, 0x10  # their selectors
LONG_MODES = ("long64", "compat32")
WIDTH = {"long64": 16, "compat32": 16, "real16": 4}  # of a gate; 8 elsewhere


def gate(mode, target, *, attributes=INTERRUPT_GATE, base=0):
    """A gate that leads to the address `target`; `base` is the segment's in real mode."""
    if mode == "real16":
        return struct.pack("<HH", target, base >> 4)
    packed = struct.pack("<HHBBH", target & 0xFFFF, CODE0, 0, attributes, target >> 16 & 0xFFFF)
    return packed + (struct.pack("<II", target >> 32, 0) if mode in LONG_MODES else b"")


def flat_descriptors(mode):
    """The null descriptor, flat code for the mode's handlers, and flat data."""
    return [0, CODE64 if mode in LONG_MODES else CODE32, DATA32]


def with_handlers(
    l1, guest, targets, *, attributes=None, vectors=256, limit=None, descriptors=None, now=False, pages=None
):
    """Gives the guest an IDT and a GDT of its own.

    `targets` is where the vectors lead: one address for all, or a function of the vector. `attributes` gives single
    vectors another attribute byte, `limit` the table another limit, `descriptors` the GDT other entries. The tables
    are written with the guest's first run, or `now`, into `pages` or into free ones. Returns the addresses of both.
    """
    idt, gdt = pages or (l1.scratch(1), l1.scratch(1))
    lead = targets if callable(targets) else lambda _vector: targets
    table = b"".join(
        gate(guest.mode, lead(n), attributes=(attributes or {}).get(n, INTERRUPT_GATE), base=guest.code_base)
        for n in range(vectors)
    )
    write = l1.write if now else guest.write
    write(idt, table)
    guest.vmcb.update({"idtr.base": idt, "idtr.limit": len(table) - 1 if limit is None else limit})
    if guest.mode != "real16" or descriptors:
        entries = descriptors or flat_descriptors(guest.mode)
        write(gdt, struct.pack(f"<{len(entries)}Q", *entries))
        guest.vmcb.update({"gdtr.base": gdt, "gdtr.limit": 8 * len(entries) - 1})
    return idt, gdt
