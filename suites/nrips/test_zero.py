"""Exits that no instruction intercept makes save 0 in nRIP.

Exceptions but those of INT3, INTO and BOUND, nested page faults, interrupts, task switches, shutdown: there is no
instruction that L1 may take for done, and nRIP is reset to zero (APM2 15.7.1). So L1 can tell an instruction's exit
from an event's, and an event that was cut short from INTn. A wrong L0 stores RIP plus something at every exit, or
leaves what an earlier exit, or one that it handled itself, had there: L1 then skips an instruction that L2 never
executed, or returns from an interrupt to another place.
"""

import struct

import pytest

from harness import VMEXIT, any_of, cases, clause
from suites.lib.emulated_access import ACCESSES, LEVELS, Operand
from suites.lib.event_guest import NO_PAGE, EventGuest
from suites.lib.event_tables import CODE32, DATA32
from suites.lib.exceptions import LONG64, OTHER_MODES, raising
from suites.lib.nested_maps import far_guest
from suites.nrips.instructions import Insn, around, nrip, raw, rows

FAULTS = [entry for entry in LONG64 + OTHER_MODES if entry.values[2] not in (3, 4, 5)]
VECTOR = 0x61


@clause("nrips.zero.exceptions", "nrips.absent")
@pytest.mark.parametrize(("mode", "code", "vector", "error", "length", "more"), FAULTS)
def test_exceptions(l1, mode, code, vector, error, length, more):
    """Faults, and the #DB of a single step, which is a trap."""
    guest = raising(l1, mode, code, vector, more)

    assert guest.run().matches(code=0x40 + vector, rip=guest["at"], nrip=nrip(l1, 0))


@clause("nrips.zero.exceptions", "nrips.absent")
@pytest.mark.dirties("breakpoint registers were used")
@cases("kind", {"execute": 0, "write": 1, "read_write": 3})
def test_breakpoints(l1, kind):
    """#DB of a breakpoint register: a fault on an instruction, a trap behind an access to data."""
    guest = l1.guest("mov dr0, rbx\nmov eax, esi\nmov dr7, rax\nat: mov [rbx], rax\nafter: nop\nvmmcall")
    length = 0 if kind == 0 else 2 << 18
    guest.regs.update({"rbx": l1.scratch(1) if kind else guest["at"], "rsi": 0x401 | kind << 16 | length})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_DB, rip=guest["after" if kind else "at"], nrip=nrip(l1, 0))


NOT_AN_INSTRUCTION = {
    "lock_cpuid": Insn(raw("f0 0f a2"), "cpuid"),
    "lock_hlt": Insn(raw("f0 f4"), "hlt"),
    "lock_rdtsc-prot32": Insn(raw("f0 0f 31"), "rdtsc", "prot32"),
    "lock_vmmcall": Insn(raw("f0 0f 01 d9"), "vmmcall"),
    "into": Insn(raw("ce"), "#OF"),
    "mov_from_cr1": Insn(raw("0f 20 c8"), "cr1_read"),
    "mov_from_cr9": Insn(raw("44 0f 20 c8"), "cr9_read"),
    "vex_movups": Insn(raw("c5 fc 10 03"), "cpuid"),
    "vex3_movups": Insn(raw("c4 c1 7c 10 45 10"), "cpuid"),
    "lldt-real16": Insn("lldt ax", "lldt", "real16"),
    "vmcall": Insn(raw("0f 01 c1"), "vmmcall"),
}


@clause("nrips.zero.undefined", "nrips.absent")
@cases("insn", NOT_AN_INSTRUCTION)
def test_undefined_instructions(l1, insn):
    """What looks like an intercepted instruction and is #UD: with LOCK, with a register that is none, VEX without
    OSXSAVE, one of protected mode."""
    guest = l1.guest(f"start: {insn.code}\nvmmcall", mode=insn.mode, intercept=[insn.intercept])

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["start"], nrip=nrip(l1, 0))


PRIVILEGED = {
    **rows("hlt", "hlt"),
    **rows("cr0_read", "mov rax, cr0"),
    **rows("cr0_write", "clts"),
    **rows("dr7_read", "mov rax, dr7"),
    **rows("invlpg", "invlpg [rbx]"),
    **rows("lgdt", "lgdt [rbx]"),
    **rows("msr", "rdmsr"),
    **rows("ioio", "in al, dx"),
    **rows("wbinvd", "wbinvd"),
    **rows("vmload", "vmload"),
}


@clause("nrips.zero.privilege", "nrips.absent")
@cases("insn", PRIVILEGED)
def test_privileged_instructions(l1, insn):
    """At CPL 3 the #GP comes before the intercept, and nothing is saved for L1 to skip."""
    guest = around(l1, Insn(insn.code, insn.intercept, cpl=3))

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0, nrip=nrip(l1, 0))


@clause("nrips.zero.delivery", "nrips.absent")
@cases("code", {"int3": "int3", "int_0x41": "int 0x41", "ud": "ud2", "int1": raw("f1")})
def test_delivery_that_fails(l1, code):
    """INT3, INTn and INT1 that L1 does not intercept, through a gate that is not present: the #NP is no instruction's.

    Whether L2 stands at INT1 then or behind it, as #DB is a trap, is left open.
    """
    gates = dict.fromkeys((1, 3, 6, 0x41), 0x0E)
    options = {"gates": gates, "no_intercept": ["#DB", "#BP", "#UD"], "mapped": True}
    guest = EventGuest(l1, f"at: {code}\nafter: vmmcall", **options)

    rip = any_of(guest["at"], guest["after"]) if code == raw("f1") else guest["at"]
    assert guest.run().matches(code=VMEXIT.EXCP_NP, rip=rip, nrip=nrip(l1, 0))


@clause("nrips.zero.npf", "nrips.absent")
@cases("access", ["read", "write", "rmw", "locked", "fetch"])
@cases("level", [1, 3])
def test_nested_page_fault(l1, access, level):
    """On the page that L2 accesses, and on a table page of its walk."""
    l1.need("NP")
    guest, _, nested_walk, _, _ = far_guest(l1, access)
    nested_walk.set(level, 0)

    assert guest.run().matches(code=VMEXIT.NPF, nrip=nrip(l1, 0))


EMULATED = ["movups_load", "lock_cmpxchg16b", "push_from", "pop_to", "call", "movs_from", "movs_to", "rep_movs_to"]


@clause("nrips.zero.npf", "nrips.absent")
@cases("name", EMULATED)
@cases("where", ["page", *list(LEVELS)[-1:]])
def test_nested_page_fault_of_an_access_that_l0_may_emulate(l1, name, where):
    """String instructions, stack and read-modify-write forms: an L0 that decodes them knows their length, and keeps it
    to itself."""
    l1.need("NP")
    operand = Operand(l1, ACCESSES[name])
    operand.set_nested(where, 0)

    assert operand.guest.run().matches(code=VMEXIT.NPF, rip=operand.guest["probe"], nrip=nrip(l1, 0))


EVENTS = {"intr": VMEXIT.INTR, "vintr": VMEXIT.VINTR}
HANDLED_BY_L0 = {
    "cpuid": "cpuid",
    "rdmsr": "mov ecx, 0x277\nrdmsr",
    "mov_cr4": "mov rax, cr4\nmov cr4, rax",
    "wbinvd": "wbinvd",
    "out": "out 0x80, al",
    "pause": "pause",
}


def interrupted(l1, event, code, *intercepts):
    """A guest that is interrupted at `open`, behind the POPF that lets interrupts in."""
    guest = l1.guest(
        f"{code}\nthen: push 0x202\npopfq\nopen: nop\nvmmcall",
        intercept=[*intercepts, *(["vintr"] if event == "vintr" else [])],
        vmcb={"v_intr_masking": 0, "rflags": 2},
    )
    if event == "intr":
        guest.raise_interrupt(VECTOR)
    else:
        guest.vmcb.update({"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": VECTOR})
    return guest


@clause("nrips.zero.events", "nrips.absent")
@cases("code", HANDLED_BY_L0)
@cases("event", list(EVENTS))
def test_interrupt_after_what_l0_may_handle(l1, event, code):
    """L1 intercepts none of it. An L0 that does has the address behind it, which is not L1's to see."""
    guest = interrupted(l1, event, code)

    assert guest.run(host_if=False).matches(code=EVENTS[event], rip=guest["open"], nrip=nrip(l1, 0))


@clause("nrips.zero.events", "nrips.absent")
@cases("event", list(EVENTS))
def test_interrupt_after_an_instructions_exit(l1, event):
    """Of CPUID's exit, which came first, nothing is left."""
    guest = interrupted(l1, event, "first: cpuid", "cpuid")
    assert guest.run(host_if=False).matches(code=VMEXIT.CPUID, nrip=nrip(l1, guest["then"]))

    exit = guest.resume("then", run={"host_if": False})

    assert exit.matches(code=EVENTS[event], rip=guest["open"], nrip=nrip(l1, 0))


@clause("nrips.zero.exceptions", "nrips.absent")
@cases("code, exitcode", {"ud": ("ud2", VMEXIT.EXCP_UD), "pf": (f"movabs al, [{NO_PAGE}]", VMEXIT.EXCP_PF)})
def test_exception_after_an_instructions_exit(l1, code, exitcode):
    """The same with an exception."""
    guest = l1.guest(f"first: cpuid\nthen: {code}\nvmmcall", intercept=["cpuid"])
    assert guest.run().matches(code=VMEXIT.CPUID, nrip=nrip(l1, guest["then"]))

    assert guest.resume("then").matches(code=exitcode, rip=guest["then"], nrip=nrip(l1, 0))


@clause("nrips.zero.shutdown", "nrips.absent")
@cases("code", ["ud2", "int3", "int 0x80"])
def test_shutdown(l1, code):
    """A triple fault, also of an instruction whose intercept would have saved nRIP."""
    guest = l1.guest(f"nop\n{code}\nvmmcall", vmcb={"intercept_exceptions": 0, "idtr.limit": 0})

    assert guest.run().matches(code=VMEXIT.SHUTDOWN, nrip=nrip(l1, 0))


OLD, NEW = 0x18, 0x20
JMP, INT = ".byte 0xea\n.long 0\n.word 0x20", "int 0x41"


@clause("nrips.zero.task_switch", "nrips.absent")
@cases("code", {"jmp": JMP, "int": INT})
def test_task_switch(l1, code):
    """Exit 7Dh is no instruction intercept, although an instruction asks for the switch."""
    gdt, idt, old, new = (l1.scratch(1) for _ in range(4))
    # L2 has read the tables before: an L0 that maps pages at their first touch has cut no delivery short.
    # STR is never reached: it tells the universal checks that this L2 may change TR and FS.
    touch = "".join(f"mov eax, [{page}]\n" for page in (gdt, idt, old, new))
    guest = l1.guest(f"{touch}start: {code}\nvmmcall\nstr ax", mode="prot32", intercept=["task_switch"])
    old_tss, new_tss = (0x67 | tss << 16 & 0xFF_FFFF_FFFF | kind << 40 for tss, kind in ((old, 0x8B), (new, 0x89)))
    guest.write(gdt, struct.pack("<5Q", 0, CODE32, DATA32, old_tss, new_tss))
    guest.write(idt, struct.pack("<Q", NEW << 16 | 0x85 << 40) * 256)
    guest.write(new, bytes(0x66) + b"\x68\0")
    guest.vmcb.update({"gdtr.base": gdt, "gdtr.limit": 0x27, "idtr.base": idt, "idtr.limit": 0x7FF})
    guest.vmcb.update({"tr.selector": OLD, "tr.base": old, "tr.limit": 0x67, "tr.attrib": 0x8B})

    assert guest.run(vmload=True).matches(code=VMEXIT.TASK_SWITCH, info1=NEW, nrip=nrip(l1, 0))
