"""An injected event is not intercepted, but what goes wrong in its delivery is.

Hardware takes the event that L1 injects without asking the intercepts; an exception that its delivery causes is asked
for, before it can become a #DF, and EXITINTINFO then holds the injected event (APM2 15.20, 15.7.2). A wrong L0 reflects
the event that L1 has just injected back to L1, loses it when its delivery faults, or reports a #DF that is none.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.svm import inject_exception, inject_interrupt, inject_nmi, inject_software, pushes_error_code
from suites.lib.event_guest import NO_PAGE, NOT_CANONICAL, EventGuest
from suites.lib.event_tables import NO_GATE, NOT_PRESENT_GATE

CANARY = "start: mov ebx, 0x0bad\nvmmcall"
V = 1 << 31
FIELD = (1 << 32) - 1
EXCEPTIONS = (0, 1, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19)


def exception(vector):
    """EVENTINJ for a vector, with an error code where the exception has one."""
    return inject_exception(vector, 0 if pushes_error_code(vector) else None)


@clause("core.inject.not_intercepted")
@pytest.mark.parametrize("vector", EXCEPTIONS, ids=lambda vector: f"vector{vector}")
def test_injected_exception_is_not_intercepted(l1, vector):
    """Its own intercept is the only one that is set; its handler runs; nothing is left in EXITINTINFO."""
    guest = EventGuest(l1, CANARY, no_intercept=[f"exc_{n}" for n in range(32) if n != vector], regs={"rbx": 0x600D})
    guest.guest.vmcb["eventinj"] = exception(vector)

    exit = guest.run()

    assert guest.took(exit, vector, regs={"rbx": 0x600D}, intinfo=masked(0, V))


@clause("core.inject.not_intercepted")
@pytest.mark.parametrize("mode", ["long64", "real16"])
@pytest.mark.parametrize(
    ("event", "vector", "intercept"),
    [
        pytest.param(inject_interrupt(0x40), 0x40, "intr", id="intr"),
        pytest.param(inject_interrupt(0x40), 0x40, "vintr", id="intr_vintr"),
        pytest.param(inject_nmi(), 2, "nmi", id="nmi"),
        pytest.param(inject_exception("#UD"), 6, "#UD", id="ud"),
    ],
)
def test_injected_event_is_not_intercepted(l1, mode, event, vector, intercept):
    guest = EventGuest(l1, CANARY, mode=mode, intercept=[intercept], vmcb={"eventinj": event})

    assert guest.took(guest.run(), vector, intinfo=masked(0, V))


@clause("core.inject.not_intercepted")
def test_injected_software_interrupt_is_not_intercepted(l1):
    """With the INTn intercept set. Injection of INTn needs NextRIP."""
    l1.need("NRIPS")
    guest = EventGuest(l1, CANARY, intercept=["intn"], vmcb={"eventinj": inject_software(0x40)})
    guest.guest.vmcb["nrip"] = guest["start"]

    assert guest.took(guest.run(), 0x40, intinfo=masked(0, V))


@clause("core.inject.interrupt_below_32")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("vector", [8, 13, 31], ids=lambda vector: f"vector{vector}")
def test_interrupt_with_an_exceptions_vector_is_an_interrupt(l1, mode, vector):
    """It is not intercepted as an exception and pushes no error code."""
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"eventinj": inject_interrupt(vector)})

    exit = guest.run()

    assert guest.took(exit, vector)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())
    assert l1.expect("return address", guest.frame(exit).ip, guest["start"])


EVENTS = [
    pytest.param(inject_interrupt(0x40), id="intr"),
    pytest.param(inject_nmi(), id="nmi"),
    pytest.param(inject_exception("#DB"), id="db"),
    pytest.param(inject_exception("#UD"), id="ud"),
    pytest.param(inject_exception("#GP", 0x1230), id="gp"),
    pytest.param(inject_exception("#PF", 0x7), id="pf"),
]


def secondary(exit, guest, event, code, **more):
    """The exit of a delivery that failed: the injected event in EXITINTINFO, L2 where it was."""
    intinfo = event if event >> 11 & 1 else masked(event, FIELD)
    return exit.matches(code=code, intinfo=intinfo, rip=guest["start"], rsp=exit.before["rsp"], **more)


def vector_of(event):
    """The vector that an event uses."""
    return event & 0xFF


@clause("core.inject.secondary_exception", "core.exceptions.during_delivery")
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    ("attributes", "code", "mode"),
    [
        pytest.param(NOT_PRESENT_GATE, VMEXIT.EXCP_NP, "long64", id="gate_not_present-long64"),
        pytest.param(NO_GATE, VMEXIT.EXCP_GP, "prot32", id="no_gate-prot32"),
    ],
)
def test_gate_that_cannot_be_used(l1, mode, event, attributes, code):
    """The error code names the gate: the vector as index, the IDT bit. Its EXT bit is left open."""
    vector = vector_of(event)
    guest = EventGuest(l1, CANARY, mode=mode, gates={vector: attributes}, vmcb={"eventinj": event})

    exit = guest.run()

    assert secondary(exit, guest, event, code, info1=masked(vector << 3 | 2, ~1 & FIELD))


@clause("core.inject.secondary_exception", "core.exceptions.during_delivery")
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
@pytest.mark.parametrize("event", [EVENTS[0], EVENTS[3]])
@pytest.mark.parametrize("short", [0, 1], ids=["fits", "one_short"])
def test_idt_limit(l1, mode, event, short):
    """The gate's last byte at the limit is enough; with one byte less it is a #GP."""
    vector = vector_of(event)
    width = {"long64": 16, "prot32": 8, "real16": 4}[mode]
    guest = EventGuest(l1, CANARY, mode=mode, idt_limit=(vector + 1) * width - 1 - short, vmcb={"eventinj": event})

    exit = guest.run()

    if short:
        assert secondary(exit, guest, event, VMEXIT.EXCP_GP)
    else:
        assert guest.took(exit, vector)


@clause("core.inject.secondary_exception", "core.exceptions.during_delivery")
@pytest.mark.parametrize("event", EVENTS)
def test_stack_without_a_page(l1, event):
    """#PF of a push: error code and page are the push's, CR2 stays. Which push touches it first is not said."""
    guest = EventGuest(l1, CANARY, vmcb={"eventinj": event, "rsp": NO_PAGE, "cr2": 0})

    exit = guest.run()

    page = masked(NO_PAGE - 0x1000, ~0xFFF & (1 << 64) - 1)
    assert secondary(exit, guest, event, VMEXIT.EXCP_PF, info1=2, info2=page, cr2=0)


@clause("core.inject.secondary_exception", "core.exceptions.during_delivery")
@pytest.mark.parametrize("event", EVENTS)
def test_stack_that_is_not_canonical(l1, event):
    """#SS with an index of 0."""
    guest = EventGuest(l1, CANARY, vmcb={"eventinj": event, "rsp": NOT_CANONICAL})

    exit = guest.run()

    assert secondary(exit, guest, event, VMEXIT.EXCP_SS, info1=masked(0, ~1 & FIELD))


@clause("core.inject.secondary_exception")
@pytest.mark.parametrize("event", [EVENTS[0], EVENTS[3]])
def test_secondary_exception_that_is_not_intercepted(l1, event):
    """The near miss: #NP is not intercepted, so that L2's handler for it runs, and on top of the first frame."""
    vector = vector_of(event)
    absent = {vector: NOT_PRESENT_GATE}
    guest = EventGuest(l1, CANARY, mode="prot32", gates=absent, no_intercept=["#NP"], vmcb={"eventinj": event})

    exit = guest.run()

    assert guest.took(exit, 11, intinfo=masked(0, V))
    frame = guest.frame(exit, error=True)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed(error=True))
    assert l1.expect("return address", frame.ip, guest["start"])
    assert l1.expect("error code but for EXT", frame.error & ~1, vector << 3 | 2)


@clause("core.inject.into_double_fault")
@pytest.mark.parametrize("name", ["#DE", "#TS", "#NP", "#SS", "#GP", "#PF"])
def test_injected_exception_counts_for_the_double_fault(l1, name):
    """A contributory exception is injected and its gate gives #GP, not intercepted: #DF, intercepted."""
    event = exception(inject_exception(name) & 0xFF)
    vector = vector_of(event)
    guest = EventGuest(l1, CANARY, gates={vector: NO_GATE}, no_intercept=["#GP"], vmcb={"eventinj": event})

    assert guest.run().matches(code=VMEXIT.EXCP_DF)


@clause("core.inject.into_double_fault")
@pytest.mark.parametrize("event", [EVENTS[0], EVENTS[1], EVENTS[2], EVENTS[3]])
def test_injected_benign_event_gives_no_double_fault(l1, event):
    """The near miss: L2's #GP handler runs although #DF is intercepted."""
    vector = vector_of(event)
    guest = EventGuest(
        l1, CANARY, mode="prot32", gates={vector: NO_GATE}, no_intercept=["#GP"], vmcb={"eventinj": event}
    )

    exit = guest.run()

    assert guest.took(exit, 13)
    assert l1.expect("error code but for EXT", guest.frame(exit, error=True).error & ~1, vector << 3 | 2)


@clause("core.inject.int3_into_dpl")
@pytest.mark.parametrize("dpl", [0, 3], ids=["dpl0", "dpl3"])
def test_injected_int3_asks_the_gates_dpl(l1, dpl):
    """At CPL 3, as INT3 does: a gate with DPL 0 gives #GP, one with DPL 3 is used."""
    event = inject_exception("#BP")
    guest = EventGuest(l1, CANARY, cpl=3, gates={3: 0x8E | dpl << 5}, vmcb={"eventinj": event})
    guest.guest.vmcb["nrip"] = guest["start"]

    exit = guest.run()

    if dpl:
        assert guest.took(exit, 3)
    else:
        assert secondary(exit, guest, event, VMEXIT.EXCP_GP, info1=masked(3 << 3 | 2, ~1 & FIELD))


@clause("core.inject.no_dpl_check")
@pytest.mark.parametrize(
    "event",
    [*EVENTS, pytest.param(inject_interrupt(3), id="intr3")],
)
def test_other_events_do_not_ask_the_gates_dpl(l1, event):
    """At CPL 3 with a gate of DPL 0; the return address is L2's RIP, also with a decoy in nRIP."""
    guest = EventGuest(l1, CANARY, cpl=3, vmcb={"eventinj": event, "nrip": 0xDEC0})

    exit = guest.run()

    assert guest.took(exit, vector_of(event))
    assert l1.expect("return address", guest.frame(exit, error=bool(event >> 11 & 1)).ip, guest["start"])


@clause("core.inject.software_nrip")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("ahead", [0, 2, 7])
def test_software_interrupt_returns_to_nrip(l1, mode, ahead):
    """The return address is the nRIP field, wherever RIP is."""
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"eventinj": inject_software(0x40)})
    guest.guest.vmcb["nrip"] = guest["start"] + ahead

    exit = guest.run()

    assert guest.took(exit, 0x40)
    assert l1.expect("return address", guest.frame(exit).ip, guest["start"] + ahead)


@clause("core.inject.software_dpl")
@pytest.mark.parametrize(("cpl", "dpl"), [(0, 0), (3, 0), (3, 3)], ids=["cpl0-dpl0", "cpl3-dpl0", "cpl3-dpl3"])
def test_software_interrupt_asks_the_gates_dpl(l1, cpl, dpl):
    """As INTn does: #GP with the gate's number, the IDT bit, and EXT clear."""
    event = inject_software(0x40)
    guest = EventGuest(l1, CANARY, cpl=cpl, gates={0x40: 0x8E | dpl << 5}, vmcb={"eventinj": event})
    guest.guest.vmcb["nrip"] = guest["start"]

    exit = guest.run()

    if cpl > dpl:
        assert secondary(exit, guest, event, VMEXIT.EXCP_GP, info1=0x40 << 3 | 2)
    else:
        assert guest.took(exit, 0x40)


@clause("core.inject.int3_into_nrip")
@pytest.mark.parametrize(("name", "mode"), [("#BP", "long64"), ("#BP", "prot32"), ("#OF", "prot32")])
def test_int3_and_into_return_to_nrip(l1, name, mode):
    """TYPE 3 with vector 3 or 4 is a trap: its return address is the nRIP field."""
    event = inject_exception(name)
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"eventinj": event})
    guest.guest.vmcb["nrip"] = guest["start"] + 1

    exit = guest.run()

    assert guest.took(exit, vector_of(event))
    assert l1.expect("return address", guest.frame(exit).ip, guest["start"] + 1)


@clause("core.inject.no_nrip")
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
@pytest.mark.parametrize("event", [inject_software(0x40), inject_exception("#BP")], ids=["int40", "bp"])
def test_without_nrip_the_return_address_is_rip(l1, mode, event):
    """L1 is not offered NRIPS: 0C8h is a reserved field, and a decoy in it must not be used."""
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"eventinj": event, "nrip": 0xDEC0})

    exit = guest.run()

    assert guest.took(exit, vector_of(event))
    assert l1.expect("return address", guest.frame(exit).ip, guest["start"])
