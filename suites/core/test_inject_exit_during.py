"""#VMEXIT while L2 takes an event of its own: EXITINTINFO says which event was lost.

When an exit comes in the middle of a delivery, EXITINTINFO gets the event's vector, type, EV and V, and its error code
(APM2 15.7.2). INTn is type 4; INT3, INTO, BOUND and ICEBP are exceptions, type 3. L2's RIP is that of the instruction,
and its stack pointer is as before. L1 mends what was in the way and gives the same field back as EVENTINJ. A wrong L0
forgets the event when it has mended a page of its own, so that L2 loses an interrupt, or reports the wrong type.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked
from harness.scenario.steps import TABLE_SIZES, TableKind
from suites.lib.event_guest import ABSENT, BEYOND_GDT, NO_PAGE, EventGuest
from suites.lib.event_tables import DATA0, NO_GATE, NOT_PRESENT_GATE

V, EV = 1 << 31, 1 << 11
FIELD = (1 << 32) - 1
INTR, EXCEPTION, SOFTWARE = (kind << 8 for kind in (0, 3, 4))
ALL = [f"exc_{n}" for n in range(32)]

STACK = 0x4020_0000  # guest-physical and guest-linear; no memory is there
STACK_TOP = STACK + 0x1000
BACKING = 0x100_0000  # 2 MiB of the arena
PRESENT_2M = 0x87  # present, writable, user, 2 MiB
PAGE_OF = ~0xFFF & (1 << 64) - 1  # which of the pushes touches the page first is not said


def info(vector, kind, error=None):
    """EXITINTINFO as it must be: without EV the error code is not stated."""
    if error is None:
        return masked(V | kind | vector, FIELD)
    return V | EV | kind | vector | error << 32


def with_nested_hole(l1, code, **options):
    """A guest whose stack has no page in the nested tables; gives the guest and the address of the missing entry."""
    l1.need("NP")
    vmcb = {"rsp": STACK_TOP} | options.pop("vmcb", {})
    guest = EventGuest(l1, code, np=True, vmcb=vmcb, **options)
    tables = l1.scratch(TABLE_SIZES[TableKind.LONG] // 0x1000)
    entry = tables + 0x2000 + (STACK >> 21) * 8
    guest.guest.tables(tables, TableKind.LONG)
    guest.guest.write(entry, bytes(8))
    guest.guest.vmcb["n_cr3"] = tables
    return guest, entry


# What L2 does, its event, the error code and the mode.
FAULTS = [
    pytest.param("at: ud2", 6, None, "long64", id="ud"),
    pytest.param("at: ud2", 6, None, "prot32", id="ud_prot32"),
    pytest.param("xor ecx, ecx\nat: div ecx", 0, None, "long64", id="de"),
    pytest.param("mov eax, 5\nat: bound eax, [ebx]", 5, None, "prot32", id="bound"),
]
FAULTS_WITH_ERROR_CODE = [
    pytest.param(f"mov eax, {BEYOND_GDT}\nat: mov ds, eax", 13, BEYOND_GDT, "long64", id="gp"),
    pytest.param(f"mov eax, {BEYOND_GDT}\nat: mov ds, eax", 13, BEYOND_GDT, "prot32", id="gp_prot32"),
    pytest.param(f"mov eax, {ABSENT}\nat: mov ds, eax", 11, ABSENT, "long64", id="np"),
    pytest.param(f"mov eax, {ABSENT}\nat: mov ss, eax", 12, ABSENT, "prot32", id="ss"),
    pytest.param(f"movabs rbx, {NO_PAGE}\nat: mov eax, [rbx]", 14, 0, "long64", id="pf_read"),
    pytest.param(f"movabs rbx, {NO_PAGE}\nat: mov [rbx], eax", 14, 2, "long64", id="pf_write"),
]
INSTRUCTIONS = [
    pytest.param("at: int3", 3, EXCEPTION, "long64", id="int3"),
    pytest.param("at: int3", 3, EXCEPTION, "prot32", id="int3_prot32"),
    pytest.param("at: .byte 0xf1", 1, EXCEPTION, "long64", id="icebp"),
    pytest.param("mov al, 0x7f\nadd al, al\nat: into", 4, EXCEPTION, "prot32", id="into"),
    pytest.param("at: int 0x40", 0x40, SOFTWARE, "long64", id="int40"),
    pytest.param("at: int 0x40", 0x40, SOFTWARE, "prot32", id="int40_prot32"),
    pytest.param("at: .byte 0xcd, 3", 3, SOFTWARE, "long64", id="int_3"),
    pytest.param("at: int 2", 2, SOFTWARE, "long64", id="int_2"),
]


def natural(l1, code, mode):
    """A guest in whose nested tables the stack is missing, for `NATURAL`."""
    bounds = l1.scratch(1)  # zeros: only 0 is within
    return with_nested_hole(l1, f"{code}\nvmmcall", mode=mode, no_intercept=ALL, regs={"rbx": bounds})


def check_nested_fault(exit, guest, intinfo, **more):
    """A nested page fault at one of the pushes: the event in EXITINTINFO, L2 where it was."""
    expected = {"rip": guest["at"], "info2": masked(STACK, PAGE_OF)} | more
    return exit.matches(code=VMEXIT.NPF, intinfo=intinfo, rsp=STACK_TOP, **expected)


@clause("core.inject.exitintinfo")
@pytest.mark.parametrize(("code", "vector", "error", "mode"), FAULTS)
def test_nested_page_fault_in_the_delivery_of_a_fault(l1, code, vector, error, mode):
    """The stack has no nested page."""
    guest, _ = natural(l1, code, mode)

    assert check_nested_fault(guest.run(), guest, info(vector, EXCEPTION))


@clause("core.inject.exitintinfo_error_code")
@pytest.mark.parametrize(("code", "vector", "error", "mode"), FAULTS_WITH_ERROR_CODE)
def test_error_code_of_the_event(l1, code, vector, error, mode):
    """The same, with the error code that could not be pushed. The #PF of L2 has written CR2 by then."""
    guest, _ = natural(l1, code, mode)

    exit = guest.run()

    more = {"cr2": NO_PAGE} if vector == 14 else {}
    assert check_nested_fault(exit, guest, info(vector, EXCEPTION, error), **more)


@clause("core.inject.exitintinfo_error_code")
@pytest.mark.parametrize("vector", [8, 13, 14], ids=lambda vector: f"vector{vector}")
def test_intn_has_no_error_code(l1, vector):
    """The near miss: INT 13 is no #GP and pushes none. The exit before it was for an event with an error code, so that
    an EXITINTINFO that nobody wrote again shows."""
    older, _ = natural(l1, f"movabs rbx, {NO_PAGE}\nat: mov [rbx], eax", "long64")
    assert older.run().matches(code=VMEXIT.NPF, rip=older["at"])
    guest, _ = natural(l1, f"at: int {vector}", "long64")

    assert check_nested_fault(guest.run(), guest, masked(0, EV))


@clause("core.inject.exitintinfo_type")
@pytest.mark.parametrize(("code", "vector", "kind", "mode"), INSTRUCTIONS)
def test_type_of_the_event(l1, code, vector, kind, mode):
    """An instruction that makes an event: the exception of INT3, INTO and ICEBP, the software interrupt of INTn."""
    guest, _ = natural(l1, code, mode)

    # Whether RIP is ICEBP's or the next instruction's is not said anywhere.
    more = {"rip": any_of(guest["at"], guest["at"] + 1)} if vector == 1 else {}
    assert check_nested_fault(guest.run(), guest, info(vector, kind), **more)


@clause("core.inject.round_trip")
@pytest.mark.parametrize(("code", "vector", "error", "mode"), FAULTS[1:3] + FAULTS_WITH_ERROR_CODE[1:5])
def test_exitintinfo_goes_back_as_eventinj(l1, code, vector, error, mode):
    """L1 maps the stack and injects what it found: the handler runs once, with the frame of the first try."""
    guest, entry = natural(l1, code, mode)
    first = guest.run()
    assert first.matches(code=VMEXIT.NPF, rip=guest["at"])
    l1.write(entry, (BACKING | PRESENT_2M).to_bytes(8, "little"))
    guest.guest.vmcb.update({"eventinj": first.vmcb["exitintinfo"], "tlb_control": 1})

    second = guest.guest.run(read={"stack": (BACKING + 0x1000 - 0x100, 0x100)})

    assert guest.took(second, vector, intinfo=masked(0, V))
    width = 8 if mode == "long64" else 4
    words = (5 if mode == "long64" else 3) + (error is not None)
    rsp = second.vmcb["rsp"]
    assert l1.expect("bytes pushed", STACK_TOP - rsp, words * width)
    at = len(second.memory["stack"]) - words * width
    pushed = [
        int.from_bytes(second.memory["stack"][at + n * width : at + n * width + width], "little") for n in range(words)
    ]
    if error is not None:
        assert l1.expect("error code", pushed.pop(0) & FIELD, error)
    assert l1.expect("return address", pushed[0], guest["at"])
    if mode == "long64":
        assert l1.expect("SS in the frame", pushed[4] & 0xFFFF, DATA0)


@clause("core.inject.exitintinfo")
@pytest.mark.parametrize("vector", [0x40, 0xE1], ids=lambda vector: f"vector{vector:02x}")
def test_virtual_interrupt_in_delivery(l1, vector):
    """V_IRQ is taken at L2's first instruction that has IF=1; its delivery ends in a nested page fault.

    L2 reads IDT and GDT before, so that an L0 has mapped all that the delivery meets but the stack.
    """
    fields = {"v_irq": 1, "v_intr_vector": vector, "v_intr_prio": 15, "v_ign_tpr": 1}
    touch = "mov eax, [rsi]\nmov eax, [rdi]"
    guest, _ = with_nested_hole(l1, f"{touch}\nsti\nnop\nat: nop\nvmmcall", vmcb=fields)
    guest.guest.regs.update({"rsi": guest.idt, "rdi": guest.gdt})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NPF, intinfo=info(vector, INTR), rip=guest["at"], rsp=STACK_TOP)


def with_physical_interrupt(l1, vector):
    """A guest that takes L1's interrupt itself, on the stack that is missing."""
    guest, _ = with_nested_hole(l1, "sti\nnop\nat: nop\nvmmcall", no_intercept=["intr"], vmcb={"v_intr_masking": 0})
    guest.guest.raise_interrupt(vector)
    return guest


@clause("core.inject.exitintinfo")
@pytest.mark.parametrize("vector", [0x31, 0x7A], ids=lambda vector: f"vector{vector:02x}")
def test_physical_interrupt_in_delivery(l1, vector):
    """INTR is not intercepted."""
    guest = with_physical_interrupt(l1, vector)

    assert guest.run().matches(code=VMEXIT.NPF, intinfo=info(vector, INTR), rip=guest["at"], rsp=STACK_TOP)


@clause("core.inject.interrupt_in_delivery")
@pytest.mark.parametrize("vector", [0x31, 0x7A], ids=lambda vector: f"vector{vector:02x}")
def test_interrupt_in_delivery_is_acknowledged(l1, vector):
    """EXITINTINFO alone has it: it is not pending any more, and L1 does not take it after STGI."""
    guest = with_physical_interrupt(l1, vector)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NPF, intinfo=masked(V, V), rip=guest["at"])
    assert l1.expect("taken by L1", any(event.vector == vector for event in exit.events), False)


@clause("core.inject.interrupt_in_delivery")
def test_interrupt_that_was_not_taken_stays_pending(l1):
    """The near miss: L2 has IF=0 and does not come to its STI; L1 takes the interrupt after STGI."""
    guest, _ = with_nested_hole(l1, "at: push 5\nsti", no_intercept=["intr"], vmcb={"v_intr_masking": 0})
    guest.guest.raise_interrupt(0x7A)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NPF, intinfo=masked(0, V), rip=guest["at"])
    assert l1.expect("taken by L1", any(event.vector == 0x7A for event in exit.events), True)


@clause("core.inject.exitintinfo")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_no_event_when_nothing_was_delivered(l1, mode):
    """The near miss: the same nested page fault, by a PUSH of L2."""
    guest, _ = with_nested_hole(l1, "at: push 5\nvmmcall", mode=mode)

    assert guest.run().matches(code=VMEXIT.NPF, intinfo=masked(0, V), rip=guest["at"], rsp=STACK_TOP)


@clause("core.inject.exitintinfo")
@pytest.mark.parametrize(
    ("code", "exitcode"),
    [("at: ud2", VMEXIT.EXCP_UD), ("at: int 0x40", VMEXIT.INTN), ("at: int3", VMEXIT.EXCP_BP)],
    ids=["ud", "int40", "int3"],
)
def test_no_event_when_the_event_itself_exits(l1, code, exitcode):
    """Its own intercept comes before its delivery: V=0."""
    guest = EventGuest(l1, f"{code}\nvmmcall", intercept=["intn"])

    assert guest.run().matches(code=exitcode, intinfo=masked(0, V), rip=guest["at"])


# --- Exceptions on top of exceptions

FIRST = {
    "de": ("xor ecx, ecx\nat: div ecx", 0, None),
    "np": (f"mov eax, {ABSENT}\nat: mov ds, eax", 11, ABSENT),
    "gp": (f"mov eax, {BEYOND_GDT}\nat: mov ds, eax", 13, BEYOND_GDT),
    "ud": ("at: ud2", 6, None),
}
CONTRIBUTORY = ["de", "np", "gp"]


def double(l1, first, *, gates=(), mode="prot32", without=(), **options):
    """L2 raises `first`, which is not intercepted, and whose gate is NO_GATE: its delivery raises #GP."""
    code, vector, _ = FIRST[first]
    closed = dict.fromkeys((vector, *gates), NO_GATE)
    return EventGuest(
        l1, f"{code}\nvmmcall", mode=mode, gates=closed, no_intercept=[f"exc_{vector}", *without], **options
    )


@clause("core.inject.secondary_before_double_fault", "core.exceptions.during_delivery")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("first", ["de", "np", "ud"])
def test_second_exception_exits_before_it_becomes_a_double_fault(l1, first, mode):
    """#GP and #DF are both intercepted: the exit is #GP's, and EXITINTINFO holds the first exception."""
    _, vector, error = FIRST[first]
    guest = double(l1, first, mode=mode)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, intinfo=info(vector, EXCEPTION, error), rip=guest["at"])


@clause("core.inject.double_fault")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("first", CONTRIBUTORY)
def test_double_fault_exits(l1, first, mode):
    """#DF is intercepted, #GP is not. RIP and the exit information are not defined for #DF."""
    assert double(l1, first, mode=mode, without=["#GP"]).run().matches(code=VMEXIT.EXCP_DF)


@clause("core.inject.double_fault")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("first", ["de", "np"])
def test_double_fault_is_delivered(l1, first, mode):
    """Neither #GP nor #DF is intercepted: L2's handler for #DF runs, with an error code of 0."""
    guest = double(l1, first, mode=mode, without=["#GP", "#DF"])

    exit = guest.run()

    assert guest.took(exit, 8, intinfo=masked(0, V))
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed(error=True))
    assert l1.expect("error code", guest.frame(exit, error=True).error, 0)


@clause("core.inject.double_fault")
def test_benign_exception_gives_no_double_fault(l1):
    """The near miss: #UD first, then #GP, for which L2's handler runs although #DF is intercepted."""
    guest = double(l1, "ud", without=["#GP"])

    exit = guest.run()

    assert guest.took(exit, 13)
    assert l1.expect("error code but for EXT", guest.frame(exit, error=True).error & ~1, 6 << 3 | 2)


@clause("core.inject.double_fault")
@pytest.mark.parametrize("second", [NO_GATE, NOT_PRESENT_GATE], ids=["gp", "np"])
def test_page_fault_then_contributory(l1, second):
    """#PF counts for #DF like a contributory exception when a contributory one follows."""
    code = f"movabs rbx, {NO_PAGE}\nat: mov eax, [rbx]\nvmmcall"
    guest = EventGuest(l1, code, gates={14: second}, no_intercept=["#PF", "#GP", "#NP"])

    assert guest.run().matches(code=VMEXIT.EXCP_DF)


@clause("core.inject.double_fault")
def test_page_fault_then_page_fault(l1):
    """The stack has no page either."""
    code = f"movabs rbx, {NO_PAGE}\nat: mov eax, [rbx]\nvmmcall"
    guest = EventGuest(l1, code, no_intercept=["#PF"], vmcb={"rsp": NO_PAGE + 0x4000})

    assert guest.run().matches(code=VMEXIT.EXCP_DF)


@clause("core.inject.double_fault_in_delivery")
def test_page_fault_in_the_delivery_of_a_double_fault(l1):
    """#GP, whose gate gives #GP again, is a #DF; its first push has no page. #PF is intercepted and finds #DF."""
    guest = double(l1, "gp", mode="long64", without=["#DF"], vmcb={"rsp": NO_PAGE})

    exit = guest.run()

    page = masked(NO_PAGE - 0x1000, PAGE_OF)
    assert exit.matches(code=VMEXIT.EXCP_PF, intinfo=info(8, EXCEPTION, 0), info1=2, info2=page)


@clause("core.inject.triple_fault")
@pytest.mark.parametrize(("first", "mode"), [("de", "long64"), ("np", "prot32")])
def test_fault_in_the_delivery_of_a_double_fault_is_a_shutdown(l1, first, mode):
    """None of the three is intercepted, the SHUTDOWN intercept is set. L2's state is not defined then."""
    guest = double(l1, first, mode=mode, gates=[8], without=["#GP", "#DF"])

    assert guest.run().matches(code=VMEXIT.SHUTDOWN)


@clause("core.inject.triple_fault")
@pytest.mark.parametrize("mode", ["long64", "real16"])
def test_no_idt_at_all_is_a_shutdown(l1, mode):
    """IDT limit 0: #UD gives #GP, which gives #DF, which cannot be delivered."""
    guest = EventGuest(l1, "ud2\nvmmcall", mode=mode, idt_limit=0, no_intercept=ALL)

    assert guest.run().matches(code=VMEXIT.SHUTDOWN)
