"""XSA-192 (CVE-2016-9382): a task switch to virtual-8086 mode.

Xen, to 4.8, on all of its emulated task switches, and so on AMD, where L0 carries out each of them by software: it
loaded LDTR as virtual-8086 mode loads data segments, base 16 times the selector, though LDTR is loaded from the GDT in
every mode (APM2 12.2.3). A 16-bit program then had a descriptor table of its own choice. Not about nesting; an L0 that
intercepts the task switches of an L2 whose L1 does not runs the same code.
"""

import struct

from harness import RFLAGS, VMEXIT, clause

OLD, NEW, LDT, LDT_LIMIT = 0x18, 0x20, 0x28, 0x2F
CODE32, DATA32 = 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
AVAILABLE_TSS, BUSY_TSS, LDT_TYPE = 0x89, 0x8B, 0x82
V86_SEGMENT = 0x7_0000  # below 1 MiB, apart from the real-mode guests' first segments
IP = 0x40


def _descriptor(base, kind, limit=0x67):
    return limit | (base & 0xFF_FFFF) << 16 | kind << 40 | (base >> 24) << 56


def _to_v86(l1, ldt_selector):
    """A 32-bit L2 that jumps to a task in virtual-8086 mode, which is a VMMCALL. Gives the guest and the LDT's base."""
    guest = l1.guest(f".byte 0xea\n.long 0\n.word {NEW}\nnop\nstr ax", mode="prot32")
    gdt, old, new, ldt = (l1.scratch(1) for _ in range(4))
    entries = [
        0, CODE32, DATA32, _descriptor(old, BUSY_TSS), _descriptor(new, AVAILABLE_TSS),
        _descriptor(ldt, LDT_TYPE, LDT_LIMIT),
    ]  # fmt: skip
    guest.write(gdt, struct.pack(f"<{len(entries)}Q", *entries))
    guest.write(old, bytes(0x68))
    segment = V86_SEGMENT >> 4
    registers = (0, IP, RFLAGS.VM | 2, 1, 2, 3, 4, 0x1000, 5, 6, 7)  # CR3, EIP, EFLAGS, EAX to EDI
    image = bytes(28) + struct.pack("<11I", *registers) + struct.pack("<6I", *[segment] * 6)
    guest.write(new, image + struct.pack("<IHH", ldt_selector, 0, 0x68))
    guest.write(V86_SEGMENT + IP, b"\x0f\x01\xd9")
    guest.vmcb.update({"gdtr.base": gdt, "gdtr.limit": 8 * len(entries) - 1})
    guest.vmcb.update({"tr.selector": OLD, "tr.base": old, "tr.limit": 0x67, "tr.attrib": BUSY_TSS})
    return guest, ldt


@clause("advisories.task_switch.ldt_in_v86")
def test_ldtr_is_loaded_from_the_gdt(l1):
    guest, ldt = _to_v86(l1, LDT)

    exit = guest.run(vmload=True, vmsave=True)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=IP, cs__selector=V86_SEGMENT >> 4, cpl=3)
    assert exit.matches(ldtr__selector=LDT, ldtr__base=ldt, ldtr__limit=LDT_LIMIT)


@clause("advisories.task_switch.ldt_in_v86")
def test_ldt_selector_that_names_no_ldt(l1):
    """A data segment's: #TS with the selector."""
    guest, _ = _to_v86(l1, 0x10)

    assert guest.run(vmload=True).matches(code=VMEXIT.EXCP_TS, info1=0x10)


@clause("advisories.task_switch.ldt_in_v86")
def test_null_ldt_selector(l1):
    """The near miss: no LDT at all."""
    guest, _ = _to_v86(l1, 0)

    assert guest.run(vmload=True).matches(code=VMEXIT.VMMCALL, rip=IP, cs__selector=V86_SEGMENT >> 4, cpl=3)
