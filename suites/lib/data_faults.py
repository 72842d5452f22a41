"""A guest whose instruction at `at` meets a fault on its data operand: an intercepted #PF, or a nested page fault.

Behind the guest's code lie bytes that are like no others there, so that whoever reports the instruction's bytes and
looks elsewhere is seen.
"""

from suites.lib import tlb_maps
from suites.lib.nested_maps import nested_guest, own_tables

TAIL = bytes(range(0x31, 0x41))
FETCHED = 15
KINDS = ["pf", "pf_np", "npf"]
PF_MODES = ["long64", "compat32", "pae32", "paged32"]
NPF_MODES = [*PF_MODES, "prot32", "real16"]
_LOW = 0x2_8000  # for the operand of real-mode code, whose segments begin at 2_0000h
_FAR = 0x1_4000_0000  # a map of L2's own has the first 4 GiB
_OFFSET = 0x340


def with_tail(code):
    """The code with TAIL behind it."""
    return code + "\n.byte " + ", ".join(str(byte) for byte in TAIL)


def faulting(l1, kind, code, mode="long64", **options):
    """A guest with `code`, and RBX, RSI and RDI in the page that is missing.

    `kind` is "pf", "pf_np" for a #PF of L2 under nested paging, or "npf".
    """
    text = with_tail(code)
    if kind != "pf":
        l1.need("NP")
    if kind == "npf":
        guest, nested = nested_guest(l1, text, mode=mode, **options)
        page = _LOW if mode == "real16" else l1.scratch(1)
        nested.set(page, 0)
        at = (page & 0xFFFF if mode == "real16" else page) + _OFFSET
    else:
        guest, far = tlb_maps.far_guest(l1, text, mode, np=kind == "pf_np", **options)
        guest.write(far.entry, bytes(4 if mode == "paged32" else 8))
        at = guest.regs["rbx"] & ~0xFFF | _OFFSET
    guest.regs.update(dict.fromkeys(["rbx", "rsi", "rdi"], at))
    return guest


def at_page_end(l1, kind, before, *, nested=False, code="at: mov al, [rbx]\nvmmcall", **options):
    """A long-mode guest like those of `faulting`, with `before` bytes of its code at the end of a page.

    Gives the guest, the address of the next page, and the maps in which that page has an entry of its own: L2's, and
    the nested one, which is None for a #PF without `nested`.
    """
    base = l1.scratch(2) + 0x1000 - before
    text = with_tail(code)
    if nested or kind == "npf":
        l1.need("NP")
        guest, outer = nested_guest(l1, text, code_base=base, **options)
    else:
        guest, outer = l1.guest(text, code_base=base, **options), None
    own = own_tables(l1, guest)
    at = _FAR
    if kind == "npf":
        at = l1.scratch(1) + _OFFSET
        outer.set(at & ~0xFFF, 0)
    guest.regs["rbx"] = at
    return guest, base + before, own, outer


def stream(guest, label="at"):
    """The bytes of the guest's code from that label on: 15 or more."""
    return guest.code[guest[label] - (0 if guest.mode == "real16" else guest.code_base) :]


def first(data, count=FETCHED):
    """The first bytes as the integer that VMCB 0D1h holds."""
    return int.from_bytes(data[:count], "little")


def mask(count):
    """The mask of so many bytes."""
    return (1 << 8 * count) - 1
