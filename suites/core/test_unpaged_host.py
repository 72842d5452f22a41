"""VMRUN from a host that does not page.

VMRUN asks for protected mode and nothing more (APM2 15.5.1); only nested paging needs a host with CR0.PG=1. So a
32-bit host in flat unpaged protected mode may run a guest, and #VMEXIT brings it back to where it was, paging still
off. An L0 that handles long mode alone raises #UD, or reloads a CR0 with paging on.
"""

import pytest

from harness import VMEXIT, clause

# Goes from 64-bit mode down to unpaged 32-bit mode with an IDT of its own, runs the VMCB at EBX, and comes back.
# EBP is the vector of what L1 took, all ones for none. EDI is CR0 right after #VMEXIT.
STUBS = "".join(f"v{n}: mov ebp, {n}\njmp back\n" for n in range(32))
TABLE = ", ".join(f"v{n}" for n in range(32))
DOWN_AND_UP = f"""
    mov [rip + saved_rsp], rsp
    sidt [rip + saved_idtr]
    lea rsi, [rip + table]
    lea rdi, [rip + idt]
    mov ecx, 32
gate:
    mov eax, [rsi]
    mov [rdi], ax
    mov word ptr [rdi + 2], 0x18
    mov word ptr [rdi + 4], 0x8E00
    shr eax, 16
    mov [rdi + 6], ax
    add rsi, 4
    add rdi, 8
    dec ecx
    jnz gate
    lidt [rip + idtr]
    push 0x18
    lea rax, [rip + legacy]
    push rax
    retfq
.code32
legacy:
    mov eax, cr0
    and eax, 0x7FFFFFFF
    mov cr0, eax
    jmp unpaged
unpaged:
    mov ebp, 0xFFFFFFFF
    mov edi, 0
    mov eax, ebx
    vmrun
    mov edi, cr0
back:
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    .byte 0xEA
    .long up
    .word 0x08
{STUBS}
    .balign 8
idt: .fill 256, 1, 0
table: .long {TABLE}
idtr: .word 255
    .quad idt
saved_idtr: .fill 10, 1, 0
    .balign 8
saved_rsp: .quad 0
.code64
up:
    mov rsp, [rip + saved_rsp]
    lidt [rip + saved_idtr]
"""


@clause("core.preconditions.unpaged_host")
@pytest.mark.parametrize("mode", ["prot32", "paged32", "pae32", "long64", "real16"])
def test_vmrun_from_unpaged_host(l1, mode):
    """What L2 does about paging is its own affair."""
    guest = l1.guest("end: vmmcall", mode=mode)
    placed = guest.run()
    assert placed.ran
    l1.write(guest.vmcb_pa, bytes(placed.before.data))

    result = l1.code(DOWN_AND_UP, {"rbx": guest.vmcb_pa})
    code = int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")

    assert result.returned
    assert l1.expect("the vector that VMRUN raised in L1", result.reg("rbp"), 0xFFFF_FFFF, width_bytes=4)
    assert l1.expect("EXITCODE[31:0]", code, VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("CR0.PG and CR0.PE after #VMEXIT", result.reg("rdi") & 0x8000_0001, 1, width_bytes=4)
