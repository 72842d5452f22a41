"""What the tests of the intercepts share: a guest around one instruction, and every other intercept."""

import pytest

from harness import unchanged
from harness.svm import INTERCEPTS
from suites.lib.event_tables import CODE64, DATA32, with_handlers

GPRS = ("rbx", "rcx", "rdx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
UNCHANGED = dict.fromkeys(GPRS, unchanged)

UNMAPPED = 0x1_4000_0000  # the guests' tables map the first 4 GiB
# Virtual-8086 mode without paging, in the segments of the real-mode template.
V86 = {"cr0": 0x31, "rflags": 0x2_0002, "cpl": 3} | {f"{name}.attrib": 0xF3 for name in ("cs", "ss", "ds", "es")}
OSXSAVE = {"cr4": 1 << 5 | 1 << 18}  # PAE and OSXSAVE

LDT_SELECTOR, TSS_SELECTOR = 0x18, 0x28  # 16 bytes each
LDT, TSS = 0x0000_8200_0000_0FFF, 0x0000_8900_0000_0067

# All intercepts of events and instructions that every CPU with SVM has. The CR and DR intercepts are added whole.
MISC1 = 0xFFFF_FFFF
MISC2 = 0x0000_3FFF


def case(clause, *values, id, marks=()):
    """A parameter set that belongs to the clause core.intercept.<clause>."""
    return pytest.param(*values, id=id, marks=[pytest.mark.clause(f"core.intercept.{clause}"), *marks])


def set_all_but(vmcb, names):
    """Sets every intercept but these."""
    words = {"intercept_misc1": MISC1, "intercept_misc2": MISC2}
    for name in names:
        word, bit = INTERCEPTS[name]
        if word in words:
            words[word] &= ~(1 << bit)
    vmcb.update(words)
    for word in ("intercept_cr_read", "intercept_cr_write", "intercept_dr_read", "intercept_dr_write"):
        vmcb[word] = 0xFFFF


def with_tables(l1, guest, handler=None):
    """A 64-bit GDT with an LDT at 18h and a TSS at 28h, and an IDT whose 256 vectors lead to the label `handler`."""
    own = {name: guest.vmcb[name] for name in ("idtr.base", "idtr.limit")}
    descriptors = [0, CODE64, DATA32, LDT, 0, TSS, 0, 0]
    gdt, idt = l1.scratch(1), l1.scratch(1)
    with_handlers(l1, guest, guest[handler] if handler else 0, descriptors=descriptors, pages=(idt, gdt))
    if not handler:
        guest.vmcb.update(own)
    return guest
