"""A 32-bit L1: code that takes L1 from 64-bit mode down to unpaged 32-bit mode with an IDT of its own, and back.

For `l1.code(down_and_up(...))`. EBP is afterwards the vector of what L1 took on the way, all ones for none.
"""

STUBS = "".join(f"v{n}: mov ebp, {n}\njmp back\n" for n in range(32))
TABLE = ", ".join(f"v{n}" for n in range(32))


def down_and_up(inside: str, *, before: str = "", after: str = "", data: str = "") -> str:
    """`inside` is 32-bit code that runs with CR0.PG=0 and may turn paging on.

    `before` is 64-bit code that runs before all else, `after` 32-bit code that runs with CR0.PG=0 again, also after an
    exception, and puts back what long mode needs; `data` are words of these three, which 32-bit code names by label.
    """
    return f"""
    {before}
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
    {inside}
back:
    mov eax, cr0
    and eax, 0x7FFFFFFF
    mov cr0, eax
    jmp unpaged_again
unpaged_again:
    {after}
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
    {data}
.code64
up:
    mov rsp, [rip + saved_rsp]
    lidt [rip + saved_idtr]
"""


def paged(*, before_vmrun: str = "", after_vmrun: str = "") -> str:
    """VMRUN of the VMCB at EBX in 32-bit paged mode, with CR3=R8 and CR4 changed by R9 (and) and R10 (or).

    EDI and ESI are 0 at VMRUN; the 32-bit code around it may keep there what it sees.
    """
    before = """
    mov [rip + new_cr3], r8
    mov rax, cr3
    mov [rip + saved_cr3], rax
    mov rax, cr4
    mov [rip + saved_cr4], rax
    and rax, r9
    or rax, r10
    mov [rip + new_cr4], rax
    """
    inside = f"""
    mov ecx, 0xC0000080
    rdmsr
    and eax, 0xFFFFFEFF
    wrmsr
    mov eax, [new_cr4]
    mov cr4, eax
    mov eax, [new_cr3]
    mov cr3, eax
    mov edi, 0
    mov esi, 0
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    jmp paged
paged:
    {before_vmrun}
    mov eax, ebx
    vmrun
    {after_vmrun}
    """
    after = """
    mov eax, [saved_cr4]
    mov cr4, eax
    mov eax, [saved_cr3]
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100
    wrmsr
    """
    data = "".join(f"{name}: .quad 0\n" for name in ("saved_cr3", "saved_cr4", "new_cr3", "new_cr4"))
    return down_and_up(inside, before=before, after=after, data=data)
