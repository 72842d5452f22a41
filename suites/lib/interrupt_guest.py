"""A guest that takes interrupts itself: an IDT (or IVT) and a GDT of its own, in every mode.

All vectors lead to the guest's label `other`, but those named lead to its label `handler`. Behind both is a VMMCALL
(`handled` for the handler's), so that the exit's RIP says which was reached and RSP points at the frame that the
delivery pushed.
"""

import struct

from harness.scenario import places
from harness.scenario.steps import Phase

CODE64, CODE32, DATA32 = 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
MODES = ("long64", "compat32", "pae32", "paged32", "prot32", "real16")
TAIL = "\nhandler: nop\nhandled: vmmcall\nnop\nother: vmmcall"
STACK = 64  # bytes below the initial stack pointer that are read back

# Some tens of microseconds on a fast CPU: an NMI that L2 sends itself is there by then. {0} is a label of its own.
WAIT = "mov ecx, 100000\n{0}: dec ecx\njnz {0}\n"


def interruptible(l1, code, vectors=(), *, mode="long64", tail=TAIL, **guest):
    """A guest with `code`, then `tail`; interrupts of `vectors` reach `handler`, all others `other`."""
    made = l1.guest(code + tail, mode=mode, **guest)
    idt, gdt = l1.scratch(1), l1.scratch(1)
    long = mode in ("long64", "compat32")
    gates = [_gate(mode, made["handler" if vector in vectors else "other"], long) for vector in range(256)]
    made.write(idt, b"".join(gates))
    made.write(gdt, struct.pack("<QQQ", 0, CODE64 if long else CODE32, DATA32))
    made.vmcb.update({"idtr.base": idt, "idtr.limit": len(gates[0]) * 256 - 1, "gdtr.base": gdt, "gdtr.limit": 23})
    return made


def _gate(mode, target, long):
    if mode == "real16":
        return struct.pack("<HH", target, places.LOW_GUEST >> 4)
    low, high = target & 0xFFFF, target >> 16 & 0xFFFF
    return struct.pack("<HHBBH", low, 8, 0, 0x8E, high) + (struct.pack("<II", target >> 32, 0) if long else b"")


def run_with_stack(guest, **run):
    """Runs the guest and reads its stack back too, for `frame`."""
    base = places.LOW_GUEST if guest.mode == "real16" else 0
    return guest.run(read={"stack": (base + guest.vmcb["rsp"] - STACK, STACK)}, **run)


def frame(guest, exit):
    """What a delivery pushed, read where RSP points at the exit: {"rip", "cs", "rflags", "size"}.

    `size` is how far RSP moved: a delivery with an error code moves it further.
    """
    item = {"long64": 8, "compat32": 8, "real16": 2}.get(guest.mode, 4)
    top, rsp = exit.before["rsp"], exit.vmcb["rsp"]
    stack = exit.memory["stack"]
    start = STACK - (top - rsp)
    words = [int.from_bytes(stack[start + n * item : start + (n + 1) * item], "little") for n in range(3)]
    return dict(zip(("rip", "cs", "rflags"), words, strict=True)) | {"size": top - rsp}


def frame_size(mode):
    """What a delivery without an error code pushes; 64-bit handlers get SS and RSP too, and an aligned stack."""
    return {"long64": 40, "compat32": 40, "real16": 6}.get(mode, 12)


def taken(exit, vector):
    """The interrupts of that vector that L1 took around this VMRUN."""
    return [event for event in exit.events if event.vector == vector]


def taken_after_stgi(l1, exit, vector):
    """True if the interrupt, or NMI, was still L1's: L1 took it once, and not before its STGI."""
    events = taken(exit, vector)
    once = l1.expect(f"how often L1 took vector {vector:02X}h", len(events), 1)
    if not once:
        return once
    return l1.expect("phase in which L1 took it (4: after STGI)", int(events[0].phase), int(Phase.AFTER_STGI))
