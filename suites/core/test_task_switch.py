"""The task switch intercept.

A task switch touches CR3, LDTR, TR and EFLAGS at once, so one intercept stands for all: it fires after the gate and the
incoming TSS have been checked and before anything has been switched, and tells L1 the incoming selector and the cause
(APM2 15.14.1). L1 must carry out the switch from these few bits. A wrong L0 switches for itself, without the intercepts
that L1 relies on, or tells a cause that makes L1 set the wrong busy bits and links.
"""

import struct

import pytest

from harness import VMEXIT, any_of, clause, masked, unchanged

OLD, NEW, GATE, ABSENT, BUSY, ABSENT_GATE = 0x18, 0x20, 0x28, 0x30, 0x38, 0x40
CODE32, DATA32 = 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
CODE64 = 0x00AF_9B00_0000_FFFF
AVAILABLE_TSS, BUSY_TSS, ABSENT_TSS, TASK_GATE = 0x89, 0x8B, 0x09, 0x85
IRET, JMP, HAS_ERROR, RF = 1 << 36, 1 << 38, 1 << 44, 1 << 48
CAUSES = IRET | JMP | HAS_ERROR
VALID, INTERRUPT, EXCEPTION, SOFTWARE = 1 << 31, 0 << 8, 3 << 8, 4 << 8
EVENT_MASK = VALID | 0x7FF
NT = 1 << 14
LOW = 0xFFFF_FFFF  # what a 32-bit task leaves of the upper halves is open

# STR is never reached: it tells the universal checks that this L2 may change TR, FS and GS.
TAIL = "end: vmmcall\ntask: vmmcall\nstr ax"


def far(opcode, selector):
    """A far JMP (EAh) or CALL (9Ah) to that selector; the offset means nothing for a TSS or a gate."""
    return f"start: .byte {opcode}\n.long 0\n.word {selector}\n{TAIL}"


def tss_descriptor(base, kind, limit=0x67):
    """A TSS descriptor."""
    return limit | (base & 0xFF_FFFF) << 16 | kind << 40 | (base >> 24) << 56


class Tasks:
    """A 32-bit guest with two tasks: the one it runs as, whose TSS has selector 18h, and another with 20h."""

    def __init__(self, l1, code, *, mode="prot32", new_kind=AVAILABLE_TSS, **options):
        self.guest = l1.guest(code, mode=mode, intercept=options.pop("intercept", ["task_switch"]), **options)
        guest = self.guest
        self.gdt, self.idt, self.old, self.new = (l1.scratch(1) for _ in range(4))
        gate = NEW << 16 | TASK_GATE << 40
        entries = [
            0,
            CODE32,
            DATA32,
            tss_descriptor(self.old, BUSY_TSS),
            tss_descriptor(self.new, new_kind),
            gate,
            tss_descriptor(self.new, ABSENT_TSS),
            tss_descriptor(self.new, BUSY_TSS),
            gate & ~(0x80 << 40),
        ]
        gdt = struct.pack(f"<{len(entries)}Q", *entries)
        guest.write(self.idt, struct.pack("<Q", gate) * 256)
        registers = (0, guest["task"], 2, *range(0x101, 0x105), guest.vmcb["rsp"] - 0x1000, *range(0x105, 0x108))
        selectors = (0x10, 0x08, 0x10, 0x10, 0x10, 0x10, 0)
        image = struct.pack("<I", 0) + bytes(24) + struct.pack("<11I", guest.vmcb["cr3"], *registers[1:])
        image += struct.pack("<7I", *selectors) + struct.pack("<HH", 0, 0x68)
        old = struct.pack("<I", NEW) + b"\x5a" * 0x64  # the link that IRET follows
        self.written = {"gdt": gdt, "incoming TSS": image, "outgoing TSS": old}
        for place, data in ((self.gdt, gdt), (self.new, image), (self.old, old)):
            guest.write(place, data)
        guest.vmcb.update({"gdtr.base": self.gdt, "gdtr.limit": 8 * len(entries) - 1})
        guest.vmcb.update({"idtr.base": self.idt, "idtr.limit": 0x7FF})
        guest.vmcb.update({"tr.selector": OLD, "tr.base": self.old, "tr.limit": 0x67, "tr.attrib": BUSY_TSS})

    def run(self):
        """One VMRUN; TR is loaded before and stored afterwards, and the tables are read back."""
        places = {"gdt": (self.gdt, 0x48), "outgoing TSS": (self.old, 0x68), "incoming TSS": (self.new, 0x68)}
        return self.guest.run(vmload=True, vmsave=True, read=places)


NO_EVENT = masked(0, VALID)
INSTRUCTIONS = [
    pytest.param(far("0xea", NEW), {}, JMP, NO_EVENT, id="jmp_tss"),
    pytest.param(far("0xea", GATE), {}, JMP, NO_EVENT, id="jmp_gate"),
    pytest.param(far("0x9a", NEW), {}, 0, NO_EVENT, id="call_tss"),
    pytest.param(far("0x9a", GATE), {}, 0, NO_EVENT, id="call_gate"),
    pytest.param(
        f"start: iretd\n{TAIL}", {"vmcb": {"rflags": NT | 2}, "new_kind": BUSY_TSS}, IRET, NO_EVENT, id="iret"
    ),
    pytest.param(f"start: .byte 0xcd, 0x41\n{TAIL}", {}, 0, masked(VALID | SOFTWARE | 0x41, EVENT_MASK), id="int_41"),
]
EVENTS = [
    pytest.param("ud2", ["#UD"], {}, 0, VALID | EXCEPTION | 6, None, id="ud"),
    pytest.param("div ecx", ["#DE"], {}, 0, VALID | EXCEPTION | 0, None, id="de"),
    pytest.param("mov ds, edx", ["#GP"], {}, HAS_ERROR, VALID | EXCEPTION | 13, 0x1238, id="gp"),
    pytest.param("mov ds, ebx", ["#NP"], {}, HAS_ERROR, VALID | EXCEPTION | 11, 0x48, id="np"),
    pytest.param(
        "sti\nnop\nnop\nnop",
        [],
        {"v_irq": 1, "v_intr_prio": 0xF, "v_intr_vector": 0x51},
        0,
        VALID | INTERRUPT | 0x51,
        None,
        id="virtual_interrupt",
    ),
]


def event_guest(l1, code, let_through, vmcb):
    """A guest in which that code raises an event that goes through a task gate.

    It reads IDT, GDT and both TSSs before: what an L0 does with an event that meets a page which it has yet to map is
    another question.
    """
    touch = "mov eax, [eax]\nmov eax, [ebp]\nmov eax, [esi]\nmov eax, [edi]\n.balign 8, 0x90"
    tasks = Tasks(l1, f"{touch}\nstart: {code}\n{TAIL}", no_intercept=let_through, vmcb=vmcb)
    tasks.guest.regs.update({"rcx": 0, "rdx": 0x1238, "rbx": 0x48, "rsi": tasks.idt, "rdi": tasks.gdt})
    tasks.guest.regs.update({"rax": tasks.old, "rbp": tasks.new})
    absent_data = DATA32 & ~(0x80 << 40)
    tasks.guest.write(tasks.gdt + 0x48, struct.pack("<Q", absent_data))
    tasks.guest.vmcb["gdtr.limit"] = 0x4F
    return tasks


@clause(
    "core.task_switch.intercept",
    "core.task_switch.selector",
    "core.task_switch.cause",
    "core.task_switch.error_code",
    "core.task_switch.rf",
)
@pytest.mark.parametrize(("code", "options", "cause", "event"), INSTRUCTIONS)
def test_instruction_that_switches_exits(l1, code, options, cause, event):
    """The selector is that of the TSS, not of the gate. Whether RIP is at the instruction or behind it is left open."""
    tasks = Tasks(l1, code, **options)

    exit = tasks.run()

    rip = any_of(tasks.guest["start"], tasks.guest["end"])
    info2 = masked(cause, CAUSES | RF)
    assert exit.matches(code=VMEXIT.TASK_SWITCH, rip=rip, info1=masked(NEW, 0xFFFF), info2=info2)


@clause(
    "core.task_switch.intercept",
    "core.task_switch.selector",
    "core.task_switch.cause",
    "core.task_switch.error_code",
)
@pytest.mark.parametrize(("code", "let_through", "vmcb", "cause", "event", "error"), EVENTS)
def test_event_that_switches_exits(l1, code, let_through, vmcb, cause, event, error):
    """Through a task gate in the IDT. What RF says of an exception is left open."""
    tasks = event_guest(l1, code, let_through, vmcb)

    exit = tasks.run()

    info2 = masked(cause, CAUSES) if error is None else masked(cause | error, CAUSES | 0xFFFF_FFFF)
    rip = masked(tasks.guest["start"], (1 << 64) - 8)
    assert exit.matches(code=VMEXIT.TASK_SWITCH, rip=rip, info1=masked(NEW, 0xFFFF), info2=info2)


@clause("core.task_switch.event")
@pytest.mark.parametrize(("code", "options", "cause", "event"), INSTRUCTIONS)
def test_event_of_an_instruction(l1, code, options, cause, event):
    """INT is an event; JMP, CALL and IRET are none."""
    assert Tasks(l1, code, **options).run().matches(code=VMEXIT.TASK_SWITCH, intinfo=event)


@clause("core.task_switch.event")
@pytest.mark.parametrize(("code", "let_through", "vmcb", "cause", "event", "error"), EVENTS)
def test_event_is_named(l1, code, let_through, vmcb, cause, event, error):
    """Type and vector of what went through the gate."""
    tasks = event_guest(l1, code, let_through, vmcb)

    assert tasks.run().matches(code=VMEXIT.TASK_SWITCH, intinfo=masked(event, EVENT_MASK))


@clause("core.task_switch.not_begun")
@pytest.mark.parametrize(("code", "options", "cause", "event"), INSTRUCTIONS)
def test_nothing_is_switched_at_the_exit(l1, code, options, cause, event):
    """Descriptors, both TSSs, TR, LDTR, CR3, segments, NT and ESP."""
    tasks = Tasks(l1, code, **options)
    exit = tasks.run()

    fields = ("tr.selector", "tr.base", "ldtr.selector", "cr3", "cs.selector", "ss.selector", "ds.selector", "rsp")
    rflags = masked(tasks.guest.vmcb["rflags"] if not options else NT, NT)
    assert exit.matches(code=VMEXIT.TASK_SWITCH, rflags=rflags, fields=dict.fromkeys(fields, unchanged))
    for name, wanted in tasks.written.items():
        got = int.from_bytes(exit.memory[name][: len(wanted)], "little")
        assert l1.expect(name, got, int.from_bytes(wanted, "little"), width_bytes=len(wanted))


@clause("core.task_switch.after_checks")
@pytest.mark.parametrize(
    ("selector", "exitcode"),
    [(ABSENT, VMEXIT.EXCP_NP), (ABSENT_GATE, VMEXIT.EXCP_NP), (BUSY, VMEXIT.EXCP_GP)],
    ids=["absent_tss", "absent_gate", "busy_tss"],
)
@pytest.mark.parametrize("opcode", ["0xea", "0x9a"], ids=["jmp", "call"])
def test_bad_descriptor_faults_first(l1, opcode, selector, exitcode):
    """The error code is the selector; there is no exit 7Dh for a switch that cannot be."""
    tasks = Tasks(l1, far(opcode, selector))

    assert tasks.run().matches(code=exitcode, rip=tasks.guest["start"], info1=selector)


@clause("core.task_switch.after_checks")
def test_iret_to_a_task_that_is_not_busy_faults_first(l1):
    """#TS, for the link leads to a TSS that no one left. Its RIP may be either task's (APM2 15.12.11)."""
    tasks = Tasks(l1, f"start: iretd\n{TAIL}", vmcb={"rflags": NT | 2})
    rip = any_of(tasks.guest["start"], tasks.guest["task"])

    assert tasks.run().matches(code=VMEXIT.EXCP_TS, rip=rip)


@clause("core.task_switch.not_intercepted")
@pytest.mark.parametrize("mode", ["prot32", "paged32", "pae32"])
@pytest.mark.parametrize(("opcode", "link"), [("0xea", None), ("0x9a", OLD)], ids=["jmp", "call"])
def test_switch_without_the_intercept(l1, opcode, link, mode):
    """L2 goes on in the other task. CR3, LDTR and TR are written by that, and their intercepts are set and silent."""
    others = ["cr3_write", "cr3_read", "lldt", "ltr", "sldt", "str", "iret"]
    tasks = Tasks(l1, far(opcode, NEW), mode=mode, intercept=others)
    guest = tasks.guest

    exit = tasks.run()

    assert exit.matches(
        code=VMEXIT.VMMCALL, rip=guest["task"], rax=masked(0x101, LOW),
        regs={"rcx": masked(0x102, LOW), "rdi": masked(0x107, LOW)},
        rflags=masked(NT if link else 0, NT), cr3=unchanged, fields={"tr.selector": NEW, "tr.base": tasks.new},
    )  # fmt: skip
    gdt = exit.memory["gdt"]
    types = gdt[OLD + 5] << 8 | gdt[NEW + 5]
    wanted = (BUSY_TSS if link else AVAILABLE_TSS) << 8 | BUSY_TSS
    assert l1.expect("types of the outgoing and the incoming TSS", types, wanted, width_bytes=2)
    saved = int.from_bytes(exit.memory["outgoing TSS"][0x20:0x24], "little")
    assert l1.expect("EIP in the outgoing TSS", saved, guest["end"], width_bytes=4)
    if link:
        linked = int.from_bytes(exit.memory["incoming TSS"][:2], "little")
        assert l1.expect("the link in the incoming TSS", linked, link, width_bytes=2)


@clause("core.task_switch.never_in_long_mode")
@pytest.mark.parametrize("intercepted", [True, False], ids=["intercepted", "clear"])
@pytest.mark.parametrize(
    ("code", "mode", "error"),
    [
        ("jmp fword ptr [rbx]", "long64", NEW),
        ("call fword ptr [rbx]", "long64", NEW),
        ("jmp fword ptr [ebx]", "compat32", NEW),
        ("iretq", "long64", 0),
        ("iretd", "compat32", 0),
    ],
    ids=["jmp", "call", "jmp_compat32", "iret", "iret_compat32"],
)
def test_long_mode_has_no_task_switch(l1, code, mode, error, intercepted):
    """#GP with the TSS's selector; for IRET with NT #GP(0)."""
    vmcb = {"rflags": NT | 2} if code.startswith("iret") else {}
    guest = l1.guest(f"start: {code}\nvmmcall", mode=mode, intercept=["task_switch"] if intercepted else [], vmcb=vmcb)
    gdt, pointer = l1.scratch(1), l1.scratch(1)
    tss = tss_descriptor(l1.scratch(1), AVAILABLE_TSS)
    guest.write(gdt, struct.pack("<6Q", 0, CODE64, DATA32, CODE32, tss, 0))
    guest.write(pointer, struct.pack("<IH", 0, NEW))
    guest.vmcb.update({"gdtr.base": gdt, "gdtr.limit": 0x2F})
    guest.regs["rbx"] = pointer

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=error)
