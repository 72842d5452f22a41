"""Corners of event injection: what decides about the error code, DR6, TF, NMIs, and what comes first.

EVENTINJ says itself whether an error code is pushed (EV), for any exception; an injected event is none that an
instruction raised, so neither the trap flag nor DR6 has a part in it; it goes before whatever waits at VMRUN, and an
injected NMI does not block the next one (APM2 15.20). An L0 that queues the event as one of its own, by vector, gives
it the error code, the DR6 and the NMI blocking that such an event of its own would have.
"""

import pytest

from harness import DR6, VMEXIT, any_of, clause
from harness.svm import inject_exception, inject_nmi
from suites.lib.event_guest import EventGuest
from suites.lib.interrupts import WAIT

IF, TF = 1 << 9, 1 << 8
EV = 1 << 11
ERROR = 0x5A5A
SEND_NMI = """
    mov esi, 0xFEE00000
    mov eax, [rsi + 0x20]
    and eax, 0xFF000000
    mov [rsi + 0x310], eax
    mov dword ptr [rsi + 0x300], 0x4400
"""


@clause("core.inject.ev_decides")
@pytest.mark.parametrize("vector", [0, 6, 7, 16], ids=["de", "ud", "nm", "mf"])
def test_error_code_where_the_exception_has_none(l1, vector):
    """EV is 1: the code is pushed."""
    guest = EventGuest(l1, "start: nop\nvmmcall", vmcb={"eventinj": inject_exception(vector, ERROR)})

    exit = guest.run()

    assert guest.took(exit, vector)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed(error=True))
    assert l1.expect("error code", guest.frame(exit, error=True).error, ERROR)


@clause("core.inject.ev_decides")
@pytest.mark.parametrize("vector", [11, 12, 13, 14], ids=["np", "ss", "gp", "pf"])
def test_no_error_code_where_the_exception_has_one(l1, vector):
    """EV is 0: none is pushed, whatever stands in ERRORCODE."""
    event = inject_exception(vector, ERROR) & ~EV
    guest = EventGuest(l1, "start: nop\nvmmcall", vmcb={"eventinj": event})

    exit = guest.run()

    assert guest.took(exit, vector)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())
    assert l1.expect("return address", guest.frame(exit).ip, guest["start"])


@clause("core.inject.db_leaves_dr6")
def test_injected_db_leaves_dr6(l1):
    """DR6 is as the VMCB had it."""
    guest = EventGuest(l1, "start: nop\nvmmcall", vmcb={"eventinj": inject_exception(1), "dr6": 0xFFFF_0FF0 | DR6.B3})

    exit = guest.run()

    assert guest.took(exit, 1, dr6=0xFFFF_0FF0 | DR6.B3)


@clause("core.inject.tf")
@pytest.mark.parametrize("event", [inject_exception(6), inject_nmi()], ids=["ud", "nmi"])
def test_no_single_step_of_a_delivery(l1, event):
    """RFLAGS.TF of the VMCB is in the frame and 0 in the handler, which is not stepped."""
    guest = EventGuest(l1, "start: nop\nvmmcall", vmcb={"eventinj": event, "rflags": TF | 2})

    exit = guest.run()

    assert guest.took(exit, 2 if event == inject_nmi() else 6, rflags=2)
    assert l1.expect("RFLAGS in the frame", guest.frame(exit).flags & TF, TF)


@clause("core.inject.before_interrupt")
def test_event_goes_before_a_pending_interrupt(l1):
    """The exit for the interrupt comes at the handler's first instruction, or before the event, which it then names."""
    event = inject_exception(6)
    guest = EventGuest(l1, "start: nop\nvmmcall", gate=0x8F, vmcb={"eventinj": event, "rflags": IF | 2})
    guest.raise_interrupt(0x50)

    exit = guest.run()

    delivered = exit.rip == guest.at(6)
    assert exit.matches(code=VMEXIT.INTR, rip=any_of(guest.at(6), guest["start"]))
    assert l1.expect("EXITINTINFO.V", exit.vmcb["exitintinfo"] >> 31 & 1, int(not delivered))
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed() if delivered else 0)


@clause("core.inject.nmi_blocks_nothing")
def test_injected_nmi_does_not_block_the_next(l1):
    """Its handler sends itself an NMI, which comes before any IRET."""
    code = f"""start: nop
        vmmcall
    handler: inc ebx
        cmp ebx, 1
        jne twice
        {SEND_NMI}
        {WAIT.format("again")}
        vmmcall
    twice: vmmcall
    other: vmmcall
    """
    guest = EventGuest(l1, code, handlers={2: "handler"}, regs={"rbx": 0}, vmcb={"eventinj": inject_nmi()})

    assert guest.run().reached("twice", regs={"rbx": 2})
