"""Ways to raise each exception in L2, in every mode, as parameters of a test, and the guest that does."""

import pytest

from suites.lib.event_guest import ABSENT, BEYOND_GDT, NO_PAGE, EventGuest

TF, RF, AC = 1 << 8, 1 << 16, 1 << 18
CR0_TS, CR0_AM = 1 << 3, 1 << 18
CR4_SSE = 3 << 9  # OSFXSR, OSXMMEXCPT
BS = 1 << 14

DIVIDE = "xor ecx, ecx\nat: div ecx"
MF = "{push} 0x37b\nfninit\nfldcw [{sp}]\npop {a}\nfld1\nfldz\nfdivp st(1), st\nat: fwait"
XF = """
    {push} 0x1d80
    ldmxcsr [{sp}]
    pop {a}
    mov eax, 0x3f800000
    movd xmm1, eax
    xorps xmm0, xmm0
    at: divss xmm1, xmm0
"""
LONG = {"push": "push", "sp": "rsp", "a": "rax"}
CLEAN_FPU = "fninit"
CLEAN_MXCSR = """
    mov rax, cr4
    or rax, 0x200
    mov cr4, rax
    push 0x1f80
    stmxcsr [rsp + 4]
    mov r8d, [rsp + 4]
    ldmxcsr [rsp]
    pop rax
"""


def case(name, code, vector, error=None, mode="long64", *, length=0, cpl=0, **more):
    """One way to raise an exception. `length`: how far the return address lies behind the label `at`."""
    return pytest.param(mode, code, vector, error, length, {"cpl": cpl} | more, id=f"{name}-{mode}")


LONG64 = [
    case("de", DIVIDE, 0),
    case("db", "mov ebx, 1\nat: nop", 1, rflags=2 | TF),
    case("bp", "at: int3", 3, length=1),
    case("ud", "at: ud2", 6),
    case("nm", "at: fld1", 7, cr0=CR0_TS),
    case("np", f"mov eax, {ABSENT}\nat: mov ds, eax", 11, ABSENT),
    case("ss", f"mov eax, {ABSENT}\nat: mov ss, eax", 12, ABSENT),
    case("gp", f"mov eax, {BEYOND_GDT}\nat: mov ds, eax", 13, BEYOND_GDT),
    case("pf", f"movabs rbx, {NO_PAGE}\nat: mov eax, [rbx]", 14, 0),
    case("mf", MF.format(**LONG), 16),
    case("ac", "mov ebx, 0x820001\nat: mov eax, [rbx]", 17, 0, cpl=3, rflags=2 | AC, cr0=CR0_AM),
    case("xf", XF.format(**LONG), 19, cr4=CR4_SSE),
]
OF = "mov al, 0x7f\nadd al, al\nat: into"
BR = "mov eax, 5\nat: bound eax, [ebx]"
OTHER_MODES = [
    case("of", OF, 4, mode="prot32", length=1),
    case("of", OF, 4, mode="real16", length=1),
    case("br", BR, 5, mode="prot32"),
    *(
        entry
        for mode in ("compat32", "paged32", "real16")
        for entry in (
            case("de", DIVIDE, 0, mode=mode),
            case("bp", "at: int3", 3, mode=mode, length=1),
            case("ud", "at: ud2", 6, mode=mode),
        )
    ),
    case("gp", f"mov eax, {BEYOND_GDT}\nat: mov ds, eax", 13, BEYOND_GDT, mode="compat32"),
    case("np", f"mov eax, {ABSENT}\nat: mov ds, eax", 11, ABSENT, mode="prot32"),
    case("ss", f"mov eax, {ABSENT}\nat: mov ss, eax", 12, ABSENT, mode="pae32"),
    case("db", "mov bx, 1\nat: nop", 1, mode="real16", rflags=2 | TF),
]


def raising(l1, mode, code, vector, more, **options):
    """A guest that raises the exception, and leaves FPU and MXCSR as they were."""
    cpl = more["cpl"]
    guest = EventGuest(l1, f"{code}\nafter: vmmcall", mode=mode, cpl=cpl, regs={"rbx": l1.scratch(1)}, **options)
    vmcb = guest.guest.vmcb
    vmcb["cr0"] |= more.get("cr0", 0)
    vmcb["cr4"] |= more.get("cr4", 0)
    vmcb["rflags"] = more.get("rflags", 2)
    if vector == 16:
        guest.guest.teardown(CLEAN_FPU)
    if vector == 19:
        guest.guest.teardown(CLEAN_MXCSR)
    return guest
