"""Many VMRUNs, one after the other: what a single one does not show.

XSA-34 and XSA-35 (CVE-2013-0151, CVE-2013-0152) are about nested HVM in Xen 4.2: a 32-bit Xen mapped too many pages of
L1's, and a guest that was not given nesting could turn it on, and leak memory. What L1 can see of both today: VMCBs in
many pages each run with their own state, and without SVM nothing of it is there (policy.coherence.without_svm, run with
--without SVM). CVE-2021-3653's and -3656's time had a third kind: events that L0 checks by assertions. All types and
vectors of EVENTINJ go by here, with error codes that no exception has: VMRUN refuses reserved types, and exceptions
that do not exist (APM2 15.20), and L1 gets to the end of each loop. core.checks.eventinj_* and core.inject.* ask for
single ones what L2 sees.
"""

import pytest

from harness import VMEXIT, cases, clause

PAGES = 192
# R12: VMCB, R14: a copy, R13: where EVENTINJ begins, RBP: 512 events, the vectors without EV and with it.
# R8: refused, R9: not refused.
EVENTS = """
again:
    lea rsi, [r14]
    lea rdi, [r12]
    mov ecx, 0x690 / 8
    rep movsq
    lea rax, [rbp - 1]
    mov rcx, rax
    and eax, 0xff
    and ecx, 0x100
    shl ecx, 3
    or rax, rcx
    or rax, r13
    mov [r12 + 0xa8], rax
    clgi
    mov rax, r12
    vmrun
    cmp dword ptr [r12 + 0x70], -1
    jne ran
    inc r8
    jmp next
ran:
    inc r9
next:
    dec rbp
    jnz again
    stgi
"""
RESERVED_TYPES = {1, 5, 6, 7}
EXCEPTION = 3
ERROR_CODE = 0xDEAD_BEEF


@clause("advisories.storm.eventinj")
@pytest.mark.dangerous
@cases("kind", list(range(8)), prefix="type")
def test_every_vector(l1, kind):
    """No event gets into L2 with an IDT: delivery fails, or is intercepted, and L2 exits."""
    guest = l1.guest("vmmcall", vmcb={"idtr.limit": 0})
    copy, vmcb = l1.scratch(1), l1.scratch(1)
    l1.write(guest.code_base, guest.code + b"\xcc" * 4)
    l1.write(copy, bytes(guest.vmcb))
    event = ERROR_CODE << 32 | 1 << 31 | kind << 8

    done = l1.code(EVENTS, {"r12": vmcb, "r14": copy, "r13": event, "rbp": 512})

    assert done.returned
    refused, ran = done.reg("r8"), done.reg("r9")
    assert l1.expect("VMRUNs in all", refused + ran, 512)
    if kind in RESERVED_TYPES:
        assert l1.expect("refused", refused, 512)
    elif kind == EXCEPTION:
        assert l1.expect("refused: vectors 2 and 32 to 255 at least", refused >= 2 * 225, True)
        assert l1.expect("not refused: at least ten with each EV", ran >= 20, True)
    else:
        assert l1.expect("refused", refused, 0)


# R12: the first VMCB, R14: a copy of it, RBP: how many pages. Each VMCB has its number in RAX.
VMCBS = """
    mov rbx, r12
    mov edx, ebp
make:
    mov rsi, r14
    mov rdi, rbx
    mov ecx, 512
    rep movsq
    mov [rbx + 0x5f8], rdx
    add rbx, 0x1000
    dec edx
    jnz make
    mov rbx, r12
    mov edx, ebp
again:
    clgi
    mov rax, rbx
    vmrun
    cmp qword ptr [rbx + 0x70], 0x81
    jne other
    cmp [rbx + 0x5f8], rdx
    jne other
    inc r8
other:
    add rbx, 0x1000
    dec edx
    jnz again
    stgi
"""


@clause("advisories.storm.many_vmcbs")
def test_vmcbs_in_many_pages(l1):
    guest = l1.guest("vmmcall")
    copy, pages = l1.scratch(1), l1.scratch(PAGES)
    l1.write(guest.code_base, guest.code + b"\xcc" * 4)
    l1.write(copy, bytes(guest.vmcb))

    done = l1.code(VMCBS, {"r12": pages, "r14": copy, "rbp": PAGES})

    assert done.returned
    assert l1.expect("VMCBs that ran with their own RAX", done.reg("r8"), PAGES)


# R12: VMCB, RBP: how often, R13: EXITCODE[31:0] that must come. R8: how often it came.
SAME = """
again:
    clgi
    mov rax, r12
    vmrun
    cmp [r12 + 0x70], r13d
    jne other
    inc r8
other:
    dec rbp
    jnz again
    stgi
"""


@clause("advisories.storm.immediate_exits")
@cases(
    "fields, code",
    {
        "virtual_interrupt": ({"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": 0x61, "rflags": 0x202}, VMEXIT.VINTR),
        "refused": ({"asid": 0}, 0xFFFF_FFFF),
    },
)
def test_a_thousand_immediate_exits(l1, fields, code):
    """An exit before L2's first instruction, a thousand times over. L1 is there afterwards, and its interrupts are."""
    guest = l1.guest("vmmcall", intercept=["vintr"], vmcb=fields)
    l1.write(guest.code_base, guest.code + b"\xcc" * 4)
    l1.write(guest.vmcb_pa, bytes(guest.vmcb))

    done = l1.code(SAME, {"r12": guest.vmcb_pa, "rbp": 1000, "r13": code})

    assert done.returned
    assert l1.expect("exits of that kind", done.reg("r8"), 1000)
