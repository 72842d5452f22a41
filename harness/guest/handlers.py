"""L1 code with interrupt and exception handlers of its own, and what they took.

The code runs on a copy of the executor's IDT in which the vectors asked for have other gates. Each handler first
notes in a page what it took, then does the test's own instructions.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from harness.scenario.steps import Fault, Phase

_GATES_BYTES = 0x1000
_EOI = 0xFEE0_00B0
_WITH_ERROR_CODE = frozenset({8, 10, 11, 12, 13, 14, 17, 21, 29, 30})
_ENTRY = struct.Struct("<8Q")  # vector, error code, RIP, CS, RFLAGS, RSP, CR2, DR6
_ENTRIES_MAX = 63
LOG_BYTES = 0x1000
_LABEL = "nsvm_handler"


def with_handlers(code: str, handlers: Mapping[int, str], idt: int, log: int) -> str:
    """`code` with these handlers: vector -> L1 code, which keeps the registers it uses and falls out at its end.

    `idt` and `log` are the addresses of a page each, below 4 GiB; `log` holds zeros. An interrupt is ended (EOI) after
    its handler. Raises ValueError for a vector that does not exist.
    """
    if wrong := [vector for vector in handlers if not 0 <= vector < 256]:
        raise ValueError(f"no such vector: {wrong[0]}")
    gates = "".join(_set_gate(vector, idt) for vector in handlers)
    bodies = "".join(_handler(vector, text, log) for vector, text in handlers.items())
    return f"""
    push rax
    push rcx
    push rsi
    push rdi
    sub rsp, 16
    sidt [rsp]
    mov rsi, [rsp + 2]
    mov edi, {idt:#x}
    mov ecx, {_GATES_BYTES // 8}
    cld
    rep movsq
    {gates}
    mov edi, {idt:#x}
    mov word ptr [rsp], {_GATES_BYTES - 1}
    mov [rsp + 2], rdi
    lidt [rsp]
    add rsp, 16
    pop rdi
    pop rsi
    pop rcx
    pop rax
    {code}
    jmp {_LABEL}s_end
    {bodies}
{_LABEL}s_end:
    """


def _set_gate(vector: int, idt: int) -> str:
    return f"""
    lea rax, [rip + {_LABEL}_{vector}]
    mov edi, {idt + 16 * vector:#x}
    mov [rdi], ax
    mov word ptr [rdi + 2], 8
    mov word ptr [rdi + 4], 0x8E00
    shr rax, 16
    mov [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], rax
    """


def _handler(vector: int, text: str, log: int) -> str:
    has_error = vector in _WITH_ERROR_CODE
    frame = 24 if has_error else 16  # of two registers, and the error code
    error = "mov rax, [rsp + 16]\nmov [rcx + 8], rax" if has_error else "mov qword ptr [rcx + 8], -1"
    moved = "".join(f"mov rax, [rsp + {frame + 8 * n}]\nmov [rcx + {16 + 8 * n}], rax\n" for n in range(4))
    eoi = f"push rcx\nmov ecx, {_EOI:#x}\nmov dword ptr [rcx], 0\npop rcx" if vector >= 32 else ""
    return f"""
{_LABEL}_{vector}:
    push rax
    push rcx
    mov ecx, {log:#x}
    mov eax, [rcx]
    cmp eax, {_ENTRIES_MAX}
    jae {_LABEL}_{vector}_noted
    inc dword ptr [rcx]
    shl eax, 6
    lea ecx, [rcx + rax + {_ENTRY.size}]
    mov qword ptr [rcx], {vector}
    {error}
    {moved}
    mov rax, cr2
    mov [rcx + 48], rax
    mov rax, dr6
    mov [rcx + 56], rax
{_LABEL}_{vector}_noted:
    pop rcx
    pop rax
    {text}
    {eoi}
    {"add rsp, 8" if has_error else ""}
    iretq
    """


def read_log(data: bytes) -> list[Fault]:
    """What the handlers took, in order, from the page they noted it in."""
    count = min(int.from_bytes(data[:4], "little"), _ENTRIES_MAX)
    taken = []
    for at in range(_ENTRY.size, _ENTRY.size * (count + 1), _ENTRY.size):
        vector, error, rip, cs, rflags, rsp, cr2, dr6 = _ENTRY.unpack_from(data, at)
        known = error & 0xFFFF_FFFF if vector in _WITH_ERROR_CODE else None
        taken.append(Fault(vector, Phase.NONE, 0, known, rip, cr2, dr6, rflags, rsp, cs & 0xFFFF))
    return taken
