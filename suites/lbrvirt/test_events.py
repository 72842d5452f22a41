"""What interrupts and exceptions record, and what #DB does.

An interrupt or exception first puts the branch that was last into LastInt, then itself into LastBranch: from the
interrupted instruction to its handler. #DB records nothing, and clears DEBUGCTL.LBR and BTF, so that a debugger finds
what led to it (APM2 13.1.6.1, 13.1.6.2). An event that is intercepted is none of L2's: it is not delivered. An L0 that
delivers an event to L2 in software, because it took the exit itself or because L1 injected it, must do all that.
"""

import pytest

from harness import CR0, VMEXIT, any_of, clause, masked
from harness.svm import inject_exception, inject_interrupt, inject_nmi
from suites.lib.branch_records import (
    ALL_EXCEPTIONS,
    BTF,
    LBR,
    PRESET,
    PRESET_KEPT,
    RECORDING,
    are,
    branch,
    event,
    need_branch_records,
    records,
    set_debugctl,
    store_records,
    stored,
)
from suites.lib.event_guest import NO_PAGE, NOT_CANONICAL, EventGuest

IF, TF = 1 << 9, 1 << 8
JUMP = "jump: jmp there\nnop\n"
BEFORE = (PRESET["br_from"], PRESET["br_to"])

# Name -> an instruction that raises it, and its exit. RSI is not canonical, RDI has no page, CL is 0, TS is set.
FAULTS = {
    "de": ("div cl", VMEXIT.EXCP_DE),
    "ud": ("ud2", VMEXIT.EXCP_UD),
    "nm": ("fninit", VMEXIT.EXCP_NM),
    "gp": ("mov [rsi], al", VMEXIT.EXCP_GP),
    "pf": ("mov [rdi], al", VMEXIT.EXCP_PF),
}
REGISTERS = {"rsi": NOT_CANONICAL, "rdi": NO_PAGE, "rcx": 0}


def faulting(l1, name, **options):
    """L2 branches, then raises an exception, whose handler is `other`."""
    code = f"{JUMP}there: {FAULTS[name][0]}\nother: vmmcall"
    guest = EventGuest(l1, code, handlers={}, regs=REGISTERS, vmcb=RECORDING, **options)
    guest.vmcb["cr0"] |= CR0.TS
    return guest


@clause("lbrvirt.event_recorded")
@pytest.mark.parametrize("name", FAULTS)
def test_exception(l1, name):
    """The branch stands in LastInt as a pair, the exception in LastBranch."""
    guest = faulting(l1, name, no_intercept=ALL_EXCEPTIONS)

    exit = guest.run()

    wanted = event(guest["there"], guest["other"], (guest["jump"], guest["there"]))
    assert exit.reached("other", dbgctl=LBR, fields=wanted)


@clause("lbrvirt.event_recorded")
@pytest.mark.parametrize("mode", ["compat32", "pae32", "prot32", "real16"])
def test_exception_in_other_modes(l1, mode):
    code = f"{JUMP}there: ud2\nother: vmmcall"
    guest = EventGuest(l1, code, mode=mode, handlers={}, no_intercept=ALL_EXCEPTIONS, vmcb=RECORDING)

    exit = guest.run()

    wanted = event(guest["there"], guest["other"], (guest["jump"], guest["there"]))
    assert exit.reached("other", dbgctl=LBR, fields=wanted)


@clause("lbrvirt.event_recorded")
def test_exception_from_cpl_3(l1):
    """With a change of the privilege level."""
    guest = EventGuest(l1, f"{JUMP}there: ud2\nother: nop", cpl=3, no_intercept=ALL_EXCEPTIONS, vmcb=RECORDING)

    exit = guest.run()

    assert guest.took(exit, 6, fields=event(guest["there"], guest.at(6), (guest["jump"], guest["there"])))


@clause("lbrvirt.event_recorded")
def test_handlers_branch_leaves_last_int(l1):
    """A branch of the handler goes to LastBranch alone, so that LastInt still tells what led to the exception."""
    code = f"{JUMP}there: ud2\nother: jmp end\nnop\nend: vmmcall"
    guest = EventGuest(l1, code, handlers={}, no_intercept=["#UD"], vmcb=RECORDING)

    exit = guest.run()

    wanted = event(guest["other"], guest["end"], (guest["jump"], guest["there"]))
    assert exit.reached("end", dbgctl=LBR, fields=wanted)


@clause("lbrvirt.event_recorded")
def test_two_exceptions(l1):
    """LastInt has the branch before the second one: the delivery of the first is a branch for it."""
    code = f"{JUMP}there: ud2\nsecond: div cl\nend: vmmcall\nother: vmmcall"
    guest = EventGuest(l1, code, handlers={6: "second", 0: "end"}, no_intercept=["#UD", "#DE"], vmcb=RECORDING)
    guest.guest.regs["rcx"] = 0

    exit = guest.run()

    wanted = event(guest["second"], guest["end"], (guest["there"], guest["second"]))
    assert exit.reached("end", dbgctl=LBR, fields=wanted)


@clause("lbrvirt.event_by_msr")
@pytest.mark.parametrize("name", ["ud", "de", "gp"])
def test_exception_by_msr(l1, name):
    """L2 sets LBR itself, without LBR virtualization, and its handler reads the four."""
    need_branch_records(l1)
    page = l1.scratch()
    code = (
        f"{set_debugctl(LBR)}xor ecx, ecx\n{JUMP}there: {FAULTS[name][0]}\n"
        f"other: {store_records(page)}{set_debugctl(0)}end: vmmcall"
    )
    guest = EventGuest(l1, code, handlers={}, no_intercept=ALL_EXCEPTIONS, regs=REGISTERS)

    exit = guest.run(read={"l2": stored(page)})

    assert exit.reached("end")
    wanted = {"dbgctl": LBR} | event(guest["there"], guest["other"], (guest["jump"], guest["there"]))
    assert are(l1, "L2's", records(exit.memory["l2"]), wanted)


@clause("lbrvirt.event_recorded")
def test_virtual_interrupt(l1):
    """V_IRQ, taken before L2's first instruction: from where L2 stood at VMRUN."""
    code = "start: nop\nvmmcall\nother: vmmcall"
    guest = EventGuest(l1, code, handlers={}, mapped=True, vmcb=RECORDING | {"rflags": IF | 2})
    guest.vmcb.update({"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": 0x50})

    assert guest.run().reached("other", dbgctl=LBR, fields=event(guest["start"], guest["other"], BEFORE))


@clause("lbrvirt.event_recorded")
@pytest.mark.parametrize("kind", ["intr", "nmi"])
def test_physical_interrupt(l1, kind):
    """L1 does not intercept it and has one pending at VMRUN: L2 takes it before its first instruction."""
    code = "start: nop\nvmmcall\nother: vmmcall"
    fields = RECORDING | {"rflags": IF | 2, "v_intr_masking": 0}
    guest = EventGuest(l1, code, handlers={}, no_intercept=[kind], vmcb=fields)
    if kind == "nmi":
        guest.setup("clgi")
        guest.raise_nmi()
    else:
        guest.raise_interrupt(0x50)

    exit = guest.run()

    assert exit.reached("other", dbgctl=LBR, fields=event(guest["start"], guest["other"], BEFORE))


INJECTED = {
    "interrupt": inject_interrupt(0x50),
    "nmi": inject_nmi(),
    "ud": inject_exception(6),
    "gp": inject_exception(13, error_code=0x18),
}


@clause("lbrvirt.injection_recorded")
@pytest.mark.parametrize("name", INJECTED)
def test_injected_event(l1, name):
    """As the real event, or not recorded at all; no third thing, and never half of it."""
    code = "start: nop\nvmmcall\nother: vmmcall"
    guest = EventGuest(l1, code, handlers={}, vmcb=RECORDING | {"rflags": IF | 2, "eventinj": INJECTED[name]})

    exit = guest.run()

    recorded = exit.vmcb["br_to"] != PRESET["br_to"]
    wanted = event(guest["start"], guest["other"], BEFORE) if recorded else PRESET_KEPT
    assert exit.reached("other", dbgctl=LBR, fields=wanted)


@clause("lbrvirt.injection_recorded")
def test_injected_event_without_lbr(l1):
    """Nothing is recorded while LBR is 0."""
    code = "start: nop\nvmmcall\nother: vmmcall"
    fields = RECORDING | {"dbgctl": 0, "eventinj": inject_exception(6)}
    guest = EventGuest(l1, code, handlers={}, vmcb=fields)

    assert guest.run().reached("other", dbgctl=0, fields=PRESET_KEPT)


# #DB

# Name -> the code behind L2's branch, at `there`, and DR7. DR0 is `there`, or the page that RDI points to.
DB_KINDS = {
    "single-step": ("push 0x102\npopfq\nnop", 0x400),
    "breakpoint": ("nop", 0x401),
    "data-write": ("mov dword ptr [rdi], 1", 0x401 | 0b1101 << 16),
}


def with_db(l1, kind, *, dbgctl=LBR, handler="vmmcall", **options):
    """L2 branches, then takes #DB in the code behind, with the handler `other`."""
    code, dr7 = DB_KINDS[kind]
    page = l1.scratch()
    guest = EventGuest(
        l1, f"{JUMP}there: {code}\nnop\nvmmcall\nother: {handler}", handlers={}, regs={"rdi": page},
        vmcb=RECORDING | {"dbgctl": dbgctl, "dr7": dr7}, **options,
    )  # fmt: skip
    guest.setup("mov dr0, rax", {"rax": page if kind == "data-write" else guest["there"]})
    guest.guest.teardown("xor eax, eax\nmov dr0, rax")
    return guest


@clause("lbrvirt.db_freezes")
@pytest.mark.dirties("a breakpoint was armed in L2")
@pytest.mark.parametrize("btf", [False, True], ids=["lbr", "lbr-btf"])
@pytest.mark.parametrize("kind", ["breakpoint", "data-write"])
def test_db_freezes_the_records(l1, kind, btf):
    """In the handler the last branch is still the one before #DB, LastInt did not move, LBR and BTF are 0."""
    guest = with_db(l1, kind, dbgctl=LBR | BTF * btf, no_intercept=["#DB"])

    exit = guest.run()

    assert exit.reached("other", dbgctl=0, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.db_freezes")
def test_single_step_freezes_the_records(l1):
    guest = with_db(l1, "single-step", no_intercept=["#DB"])

    exit = guest.run()

    assert exit.reached("other", dbgctl=0, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.db_freezes")
def test_handlers_branch_is_not_recorded(l1):
    """LBR stays 0 until somebody sets it again."""
    guest = with_db(l1, "single-step", handler="jmp end\nnop\nend: vmmcall", no_intercept=["#DB"])

    assert guest.run().reached("end", dbgctl=0, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.other_exceptions_keep_lbr")
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("dbgctl", [LBR, BTF, LBR | BTF], ids=["lbr", "btf", "lbr-btf"])
def test_only_db_clears_lbr(l1, name, dbgctl):
    guest = faulting(l1, name, no_intercept=ALL_EXCEPTIONS)
    guest.vmcb["dbgctl"] = dbgctl

    assert guest.run().reached("other", dbgctl=dbgctl)


# Intercepted


@clause("lbrvirt.intercepted_event_not_recorded")
@pytest.mark.parametrize("name", FAULTS)
def test_intercepted_exception(l1, name):
    """Exit 40h+vector: the branch before it is the last, LastInt did not move, LBR is set."""
    guest = faulting(l1, name)

    exit = guest.run()

    assert exit.matches(
        code=FAULTS[name][1], rip=guest["there"], dbgctl=LBR, fields=branch(guest["jump"], guest["there"])
    )


@clause("lbrvirt.intercepted_event_not_recorded")
@pytest.mark.parametrize(
    ("code", "intercept", "exitcode"),
    [("int 0x50", "intn", VMEXIT.INTN), ("int3", "#BP", VMEXIT.EXCP_BP), ("iretq", "iret", VMEXIT.IRET)],
    ids=["int-n", "int3", "iret"],
)
def test_intercepted_transfer(l1, code, intercept, exitcode):
    """INTn, INT3 and IRET that exit transfer nothing."""
    guest = EventGuest(l1, f"{JUMP}there: {code}\nother: vmmcall", handlers={}, intercept=[intercept], vmcb=RECORDING)

    exit = guest.run()

    assert exit.matches(code=exitcode, dbgctl=LBR, fields=branch(guest["jump"], guest["there"]))


@clause("lbrvirt.intercepted_event_not_recorded")
@pytest.mark.parametrize("kind", ["intr", "nmi", "vintr"])
def test_intercepted_interrupt(l1, kind):
    """The exit comes before L2's first instruction: nothing is recorded."""
    fields = RECORDING | {"rflags": IF | 2}
    if kind == "vintr":
        fields |= {"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": 0x50}
    guest = l1.guest("start: nop\nvmmcall", intercept=[kind], vmcb=fields)
    if kind == "nmi":
        guest.setup("clgi")
        guest.raise_nmi()
    elif kind == "intr":
        guest.raise_interrupt(0x50)

    exit = guest.run()

    code = {"intr": VMEXIT.INTR, "nmi": VMEXIT.NMI, "vintr": VMEXIT.VINTR}[kind]
    assert exit.matches(code=code, rip=guest["start"], dbgctl=LBR, fields=PRESET_KEPT)


@clause("lbrvirt.intercepted_db")
@pytest.mark.dirties("a breakpoint was armed in L2")
@pytest.mark.parametrize("kind", ["breakpoint", "data-write", "single-step"])
def test_intercepted_db(l1, kind):
    """The four do not move; whether LBR and BTF are cleared before the exit is not said: all of that, or nothing."""
    guest = with_db(l1, kind, dbgctl=LBR if kind == "single-step" else LBR | BTF)

    exit = guest.run()

    allowed = any_of(0, exit.before["dbgctl"])
    assert exit.matches(code=VMEXIT.EXCP_DB, dbgctl=allowed, fields=branch(guest["jump"], guest["there"]))


# BTF


@clause("lbrvirt.btf")
@pytest.mark.parametrize("kind", ["jmp there", "call there", "jz there"])
def test_btf_traps_after_a_branch(l1, kind):
    """TF and BTF: the instructions before the branch do not trap, the branch does, with DR6.BS."""
    code = f"inc ebx\nxor eax, eax\njump: {kind}\ninc ebx\nthere: inc ebx\nvmmcall"
    guest = l1.guest(code, vmcb=RECORDING | {"dbgctl": BTF, "rflags": TF | 2}, regs={"rbx": 0x10})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_DB, rip=guest["there"], regs={"rbx": 0x11}, dr6=masked(1 << 14, 0xE00F))


@clause("lbrvirt.btf")
def test_btf_without_tf(l1):
    """BTF alone does nothing."""
    exit = l1.guest("jmp there\nnop\nthere: vmmcall", vmcb=RECORDING | {"dbgctl": BTF}).run()

    assert exit.reached("there", dbgctl=BTF)


@clause("lbrvirt.btf")
def test_branch_not_taken_does_not_trap(l1):
    """Only a branch that is taken."""
    code = "or eax, 1\njz there\nnop\npush 2\npopfq\nend: vmmcall\nthere: vmmcall"
    guest = l1.guest(code, vmcb=RECORDING | {"dbgctl": BTF, "rflags": TF | 2})

    assert guest.run().reached("end", dbgctl=BTF)


@clause("lbrvirt.btf_cleared")
@pytest.mark.parametrize("dbgctl", [BTF, LBR | BTF], ids=["btf", "lbr-btf"])
def test_delivery_of_db_clears_btf(l1, dbgctl):
    """The handler finds DEBUGCTL 0, and has to set BTF again before it goes on."""
    code = "nop\njump: jmp there\nnop\nthere: nop\nvmmcall\nother: mov ecx, 0x1d9\nrdmsr\nend: vmmcall"
    fields = RECORDING | {"dbgctl": dbgctl, "rflags": TF | 2}
    guest = EventGuest(l1, code, handlers={}, no_intercept=["#DB"], vmcb=fields)

    exit = guest.run()

    assert exit.reached("end", dbgctl=0, fields=branch(guest["jump"], guest["there"]) if dbgctl & LBR else {})
    assert l1.expect("DEBUGCTL that #DB's handler reads", exit.msr, 0)


@clause("lbrvirt.btf_by_msr")
def test_btf_that_l2_sets(l1):
    """By WRMSR, without LBR virtualization: the #DB comes at the branch."""
    need_branch_records(l1)
    code = "push 0x102\npopfq\nnop\njmp there\nnop\nthere: nop\nvmmcall\nother: "
    code = f"{set_debugctl(BTF)}{code}{set_debugctl(0)}end: vmmcall"
    guest = EventGuest(l1, code, handlers={}, no_intercept=["#DB"])

    exit = guest.run()

    assert exit.reached("end")
    assert l1.expect("return address of #DB", guest.frame(exit).ip, guest["there"])


@clause("lbrvirt.event_recorded")
def test_records_are_read_in_the_handler(l1):
    """By RDMSR, as a debugger does; then the VMCB has the same."""
    page = l1.scratch()
    code = f"{JUMP}there: ud2\nother: {store_records(page)}end: vmmcall"
    guest = EventGuest(l1, code, handlers={}, no_intercept=["#UD"], vmcb=RECORDING)

    exit = guest.run(read={"l2": stored(page)})

    wanted = event(guest["there"], guest["other"], (guest["jump"], guest["there"]))
    assert are(l1, "L2's", records(exit.memory["l2"]), {"dbgctl": LBR} | wanted)
    assert exit.reached("end", fields=wanted)
