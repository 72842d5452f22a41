"""CODE: every exception that a blob can raise is caught, told as it was, and survived; some are noted and go on."""

from __future__ import annotations

import struct

import pytest

from harness.scenario import places, steps
from harness.scenario.steps import Status
from tests.executor.machines import Blob, Blobs, Machine

pytestmark = pytest.mark.emulator

BEYOND = 0x1_2345_6000  # above the 4 GiB that are mapped
NO_CANON = 0x8000_0000_0000_0000
DATA = places.SCRATCH
LDT = places.ARENA  # where the GDT's LDT descriptor points
IDT_ERROR = 0x40 * 8 + 2
QEMU_IDT_ERROR = 0x40 * 16 + 2  # as QEMU TCG 7.2 counts in long mode
ABSENT = struct.pack("<Q", 0x00CF_1300_0000_FFFF)  # a data segment with P=0
DR6_INIT = 0xFFFF_0FF0


def check_alive(machine: Machine) -> None:
    """The executor is as it was at boot, and VMRUN's step still works its way."""
    state = steps.decode_host_state(machine.run(steps.host_state())[0])
    wanted = {"CS": 8, "SS": 0x10, "DS": 0x10, "ES": 0x10, "TR": 0x38, "CR0": 0x8001_0033, "EFER": 0x1D00}
    wanted |= {"CR3": machine.hello.long_tables_pa, "DR6": DR6_INIT, "DR7": 0x400, "GDTR.limit": 0x67}
    assert state | wanted == state


# name: code, vector, error code (None: none is pushed), CR2 (None: not asked)
FAULTS: dict[str, tuple[str, int, int | None, int | None]] = {
    "#DE": ("xor eax, eax\nbad: div eax", 0, None, None),
    "#UD": ("bad: ud2", 6, None, None),
    "#UD by LOCK": ("bad: .byte 0xf0, 0x90", 6, None, None),
    "#NM by CR0.TS": ("mov rax, cr0\nor eax, 8\nmov cr0, rax\nbad: fld1", 7, None, None),
    "#NM by CR0.EM": ("mov rax, cr0\nor eax, 4\nmov cr0, rax\nbad: fld1", 7, None, None),
    "#NP": ("mov ax, 0x58\nlldt ax\nmov ax, 4\nbad: mov fs, ax", 11, 4, None),
    "#SS": ("mov ax, 0x58\nlldt ax\nmov ax, 4\nbad: mov ss, ax", 12, 4, None),
    "#GP by a selector": ("mov ax, 0x78\nbad: mov ds, ax", 13, 0x78, None),
    "#GP by an address": (f"mov rbx, {NO_CANON}\nbad: mov rax, [rbx]", 13, 0, None),
    "#GP by an IDT entry beyond its limit": ("bad: int 0x40", 13, IDT_ERROR, None),
    "#PF on a read": (f"mov rbx, {BEYOND}\nbad: mov al, [rbx+5]", 14, 0, BEYOND + 5),
    "#PF on a write": (f"mov rbx, {BEYOND}\nbad: mov [rbx+6], al", 14, 2, BEYOND + 6),
    "#PF on a fetch": (f"mov rbx, {BEYOND}\njmp rbx", 14, 0x10, BEYOND),
    "#MF": ("fninit\npush 0x33b\nfldcw [rsp]\npop rax\nfld1\nfldz\nfdivp\nbad: fwait", 16, None, None),
    "#GP by HLT at CPL 3": ("bad: hlt", 13, 0, None),
    "#PF on a read at CPL 3": (f"mov rbx, {BEYOND}\nbad: mov al, [rbx]", 14, 4, BEYOND),
    "#PF on a write at CPL 3": (f"mov rbx, {BEYOND}\nbad: mov [rbx], al", 14, 6, BEYOND),
    "#GP by INT at CPL 3": ("bad: int 0x40", 13, IDT_ERROR, None),
}
SHRINK_IDT = "sub rsp, 16\nsidt [rsp]\nmov word ptr [rsp], {limit}\nlidt [rsp]\nadd rsp, 16\n"
PREPARE = {"#GP by an IDT entry beyond its limit": SHRINK_IDT.format(limit=0x3FF)}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_caught_and_told(machine: Machine, blobs: Blobs, what: str) -> None:
    text, vector, error, cr2 = FAULTS[what]
    user = "CPL 3" in what
    machine.run(*steps.mem_write(LDT, ABSENT))

    blob = blobs.run(machine, PREPARE.get(what, "") + text + "\nmov r15, 1", user=user, r14=0x1414)

    fault = blob.fault
    wanted = (error, QEMU_IDT_ERROR) if error == IDT_ERROR and not machine.is_bochs else (error,)
    assert fault.vector == vector and fault.error in wanted
    assert fault.rip == blob.at.get("bad", BEYOND)
    assert fault.cs == (0x33 if user else 8)
    assert (fault.cpu, fault.phase) == (0, steps.Phase.NONE)
    assert fault.rflags & 0x202 == 2
    if cr2 is not None:
        assert fault.cr2 == cr2
    if user:
        assert fault.rsp == places.USER_STACK_TOP
    assert blob.answer.events == [], "what ends a blob is not among the events"
    assert "r14" not in blob.answer.registers and "r15" not in blob.answer.registers
    blobs.run(machine, "xor eax, eax\nlldt ax\nfninit")
    check_alive(machine)


def test_a_double_fault(machine: Machine, blobs: Blobs) -> None:
    """An IDT that ends behind vector 8: an #UD works, a #GP has no gate, and neither has the #GP by that."""
    text = SHRINK_IDT.format(limit=9 * 16 - 1) + f"mov rbx, {NO_CANON}\nmov rax, [rbx]"

    fault = blobs.run(machine, text).fault

    assert (fault.vector, fault.error) == (8, 0)
    check_alive(machine)


@pytest.mark.parametrize("kind", ["#AC", "#XM", "#GP by CR4"])
def test_faults_that_only_bochs_raises(pool, blobs: Blobs, kind: str) -> None:
    """QEMU TCG 7.2 checks no alignment, raises no #XM, and a reserved bit in CR4 has it #VMEXIT from L1 to nowhere."""
    machine = pool.get("bochs")
    if kind == "#AC":
        user = f"pushfq\nor dword ptr [rsp], 0x40000\npopfq\nmov rbx, {DATA + 1}\nbad: mov eax, [rbx]"
        blob = blobs.run(machine, "mov rax, cr0\nbts rax, 18\nmov cr0, rax\n" + wrap_user(user))
        assert (blob.fault.vector, blob.fault.error, blob.fault.cs) == (17, 0, 0x33)
    elif kind == "#GP by CR4":
        blob = blobs.run(machine, "mov rax, cr4\nbts rax, 40\nbad: mov cr4, rax")
        assert (blob.fault.vector, blob.fault.error, blob.fault.cs) == (13, 0, 8)
    else:
        text = "push 0x1d80\nldmxcsr [rsp]\npop rax\nxorps xmm1, xmm1\npcmpeqd xmm0, xmm0\n"
        text += "psrld xmm0, 25\npslld xmm0, 23\nbad: divss xmm0, xmm1"
        blob = blobs.run(machine, text)
        assert (blob.fault.vector, blob.fault.error, blob.fault.cs) == (19, None, 8)
    assert blob.fault.rip == blob.at["bad"]
    blobs.run(machine, "push 0x1f80\nldmxcsr [rsp]\npop rax")
    check_alive(machine)


def wrap_user(text: str) -> str:
    top = places.USER_STACK_TOP
    return f"push 0x2b\npush {top}\npush 2\npush 0x33\npush offset user\niretq\nuser:\n{text}"


def test_every_vector_by_software_is_survived(machine: Machine, blobs: Blobs) -> None:
    """INT n pushes no error code, so what is told of the vectors that have one is nonsense; but it is told."""
    with_error = {8, 10, 11, 12, 13, 14, 17, 21, 29, 30}
    for vector in range(32):
        blob = blobs.run(machine, f"int {vector}\nafter: mov r15, 1")
        if vector in (1, 2, 3):
            assert blob.vectors == [vector] and blob.answer.registers["r15"] == 1
        else:
            assert blob.fault.vector == vector
            if vector not in with_error:
                assert (blob.fault.rip, blob.fault.error) == (blob.at["after"], None)
    blob = blobs.run(machine, "\n".join(f"int {vector}" for vector in (0x20, 0x30, 0x80, 0xEF)))
    assert blob.vectors == [0x20, 0x30, 0x80, 0xEF] and blob.answer.fault is None
    check_alive(machine)


def debug(blob: Blob) -> list[tuple[int, int, int]]:
    assert blob.answer.fault is None
    assert blob.answer.registers["r15"] == 1, "the blob went on"
    return [(event.vector, event.rip, event.dr6) for event in blob.answer.events]


def test_a_single_step_is_noted_and_ends_stepping(machine: Machine, blobs: Blobs) -> None:
    blob = blobs.run(machine, "pushfq\nor dword ptr [rsp], 0x100\npopfq\nnop\nafter: nop\nmov r15, 1")

    assert debug(blob) == [(1, blob.at["after"], DR6_INIT | 1 << 14)]
    assert blob.answer.rflags & 0x100 == 0
    check_alive(machine)


def test_breakpoints_are_noted_and_go_on(machine: Machine, blobs: Blobs) -> None:
    text = f"""
        mov rax, offset here
        mov dr0, rax
        mov rax, {DATA}
        mov dr1, rax
        mov eax, 0xd0040a  # G0: execution, G1: a write of 4 bytes
        mov dr7, rax
        int3
    after: mov rbx, {DATA}
    here: nop
        mov dword ptr [rbx], 1
    there: nop
        mov r15, 1
    """
    blob = blobs.run(machine, text)

    assert debug(blob) == [
        (3, blob.at["after"], DR6_INIT),
        (1, blob.at["here"], DR6_INIT | 1),
        (1, blob.at["there"], DR6_INIT | 2),
    ]
    blobs.run(machine, "xor eax, eax\nmov dr0, rax\nmov dr1, rax")
    check_alive(machine)


def test_single_steps_and_int3_at_cpl_3(machine: Machine, blobs: Blobs) -> None:
    step = "pushfq\nor dword ptr [rsp], 0x100\npopfq\nnop\nafter: int3\nend: nop"
    blob = blobs.run(machine, step, user=True)

    assert [(event.vector, event.rip, event.cs, event.dr6) for event in blob.answer.events] == [
        (1, blob.at["after"], 0x33, DR6_INIT | 1 << 14),
        (3, blob.at["end"], 0x33, DR6_INIT),
    ]
    assert blob.fault.rip == blob.at["nsvm_user_end"]
    check_alive(machine)


def test_an_nmi_and_interrupts_within_a_blob_go_on(machine: Machine, blobs: Blobs) -> None:
    send = "mov rbx, 0xfee00300\nmov ecx, [rbx-0x2e0]\nmov [rbx+0x10], ecx\nmov dword ptr [rbx], {what}\n"
    wait = "mov ecx, 20000\n9: pause\nloop 9b\n"
    nmi = send.format(what=0x4400) + wait
    interrupt = "mov dword ptr [rbx], 0x44055\n" + wait + "mov r15, 1"

    without = blobs.run(machine, nmi + interrupt)
    (left,) = machine.run(steps.window(100))
    with_interrupts = blobs.run(machine, nmi + interrupt, interrupts=True)

    assert without.vectors == [2] and without.answer.registers["r15"] == 1
    assert [event.vector for event in steps.decode_window(left)] == [0x55]
    assert with_interrupts.vectors == [2, 0x55] and with_interrupts.answer.registers["r15"] == 1
    inside = range(places.L1_CODE, places.L1_CODE + 200)
    assert all(event.rip in inside for event in without.answer.events + with_interrupts.answer.events)
    check_alive(machine)


def test_a_fault_within_many_events_keeps_64_of_them(machine: Machine, blobs: Blobs) -> None:
    blob = blobs.run(machine, "mov ecx, 100\n1: int3\nloop 1b\nbad: ud2")

    assert blob.vectors == [3] * 64
    assert blob.fault.rip == blob.at["bad"]


# What goes in and out


def test_registers_are_loaded_and_those_that_changed_are_told(machine: Machine, blobs: Blobs) -> None:
    names = [name for name in steps.GPR_NAMES if name != "rsp"]
    loaded = {name: 0x1111_1111_1111_1111 * (n % 15 + 1) for n, name in enumerate(names)}

    same = blobs.run(machine, "nop", **loaded)
    swapped = blobs.run(machine, "\n".join(f"not {name}" for name in names), **loaded)
    zero = blobs.run(machine, "\n".join(f"inc {name}" for name in names))

    assert same.answer.registers == {}
    assert swapped.answer.registers == {name: value ^ (1 << 64) - 1 for name, value in loaded.items()}
    assert zero.answer.registers == dict.fromkeys(names, 1)
    assert zero.answer.rflags & 0x202 == 2
    assert blobs.run(machine, "stc", interrupts=True).answer.rflags & 0x201 == 0x201


WRECK = f"""
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ecx, 0xc0000080
    rdmsr
    btr eax, 12
    wrmsr
    mov rax, cr4
    or eax, 4
    mov cr4, rax
    mov rax, cr0
    btr rax, 16
    mov cr0, rax
    mov eax, 0x401
    mov dr7, rax
    mov eax, 0xffff4ff1
    mov dr6, rax
    mov rbx, {DATA}
    std
"""


def test_what_a_blob_wrecks_is_put_back(machine: Machine, blobs: Blobs) -> None:
    blob = blobs.run(machine, WRECK + "mov r15, 1")
    assert blob.answer.registers["r15"] == 1 and blob.answer.rflags & 0x400
    check_alive(machine)

    assert blobs.run(machine, WRECK + "bad: ud2").fault.vector == 6
    check_alive(machine)


def test_a_blob_may_leave_no_descriptors_at_all(machine: Machine, blobs: Blobs) -> None:
    """Its GDT and IDT are empty, and its tables are others than the executor's."""
    machine.run(*steps.mem_write(DATA, bytes(10)), steps.tables(DATA + 0x1000, steps.TableKind.LONG))
    text = f"mov rbx, {DATA + 0x1000}\nmov cr3, rbx\nmov rbx, {DATA}\nlgdt [rbx]\nlidt [rbx]\nmov r15, 1"

    for keep_state in (False, True):
        blob = blobs.run(machine, text, keep_state=keep_state)

        assert blob.answer.registers["r15"] == 1
        check_alive(machine)


def test_keep_state_keeps(machine: Machine, blobs: Blobs) -> None:
    kept = blobs.run(machine, "mov eax, 0x403\nmov dr7, rax\nmov rax, cr4\nor eax, 4\nmov cr4, rax", keep_state=True)
    assert kept.answer.fault is None
    state = steps.decode_host_state(machine.run(steps.host_state())[0])
    assert (state["DR7"], state["CR4"] & 4) == (0x403, 4)

    blobs.run(machine, "nop")

    check_alive(machine)
    assert steps.decode_host_state(machine.run(steps.host_state())[0])["CR4"] & 4 == 0


def test_xmm_registers_and_msrs_go_from_blob_to_blob(machine: Machine, blobs: Blobs) -> None:
    blobs.run(machine, "movq xmm3, rax\nmov ecx, 0xc0000102\nmov eax, 0x77\nxor edx, edx\nwrmsr", rax=0x1234_5678_9ABC)
    machine.run(steps.host_state(), *steps.mem_write(DATA, bytes(3000)))
    blob = blobs.run(machine, "movq rbx, xmm3\nmov ecx, 0xc0000102\nrdmsr")

    assert blob.answer.registers["rbx"] == 0x1234_5678_9ABC
    assert blob.answer.registers["rax"] == 0x77
    machine.run(steps.wrmsr(0xC000_0102, 0))


def test_a_wild_blob_does_not_take_the_answer_with_it(machine: Machine, blobs: Blobs) -> None:
    """RSP gone, then a fault: the handlers have stacks of their own."""
    blob = blobs.run(machine, f"mov rsp, {NO_CANON}\nbad: push rax")

    assert blob.fault.rip == blob.at["bad"]
    assert blob.fault.vector in (12, 13)  # AMD: #SS; QEMU TCG 7.2 says #GP
    assert blob.fault.rsp == NO_CANON
    check_alive(machine)
    assert machine.status(steps.cpuid(0)) is Status.OK
