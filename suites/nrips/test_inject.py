"""nRIP as input: where an injected INTn, INT3 or INTO returns to.

An event that EVENTINJ injects with TYPE 4, or with TYPE 3 and vector 3 or 4, pushes the nRIP field; all others push RIP
(APM2 15.20). RIP itself stays on the instruction, so that a fault in the delivery is the instruction's own. L1 injects
an INT3 that it intercepted just so. A wrong L0 has no way for 0C8h into its own VMCB, and L2 returns to where some
earlier exit would have gone on, or executes the INT3 for ever.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause, masked
from harness.svm import inject_exception, inject_interrupt, inject_nmi, inject_software
from suites.lib.event_guest import DPL3, NO_PAGE, NOT_CANONICAL, EventGuest
from suites.lib.event_tables import INTERRUPT_GATE, NOT_PRESENT_GATE
from suites.lib.nested_maps import PAGES, Map
from suites.nrips.instructions import nrip, raw

CANARY = "nop\nstart: mov bx, 0x0bad\nnop\nback: nop\nvmmcall"
V, EVENT = 1 << 31, 0xFFFF_FFFF
SOFT, BREAKPOINT, OVERFLOW, BOUND = inject_software(0x40), *map(inject_exception, ("#BP", "#OF", "#BR"))
TO_NRIP = {"int40": SOFT, "bp": BREAKPOINT}


def injecting(l1, event, mode="long64", **options):
    """L2 stands at `start`, and nRIP leads to `back`."""
    guest = EventGuest(l1, CANARY, mode=mode, **options)
    guest.vmcb.update({"rip": guest["start"], "eventinj": event, "nrip": guest["back"]})
    return guest


def check_return(l1, guest, exit, event, label, error=False):
    """The handler ran, and what was pushed is what such an event pushes, with the label's address."""
    assert guest.took(exit, event & 0xFF, intinfo=masked(0, V))
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed(error=error))
    assert l1.expect("return address", guest.frame(exit, error=error).ip, guest[label])


@clause("nrips.inject.return_address")
@cases("vector", [0, 3, 4, 8, 13, 14, 32, 128, 255], prefix="int", decimal=True)
def test_software_interrupt_of_any_vector(l1, vector):
    """TYPE 4 is INTn, also with an exception's vector: no error code, and no exception intercept."""
    guest = injecting(l1, inject_software(vector), mapped=True)

    check_return(l1, guest, guest.run(), vector, "back")


MODES = ["compat32", "pae32", "prot32", "real16"]


@clause("nrips.inject.return_address")
@cases("mode", MODES)
@cases("event", {**TO_NRIP, "of": OVERFLOW})
def test_other_modes(l1, mode, event):
    """INTn, INT3 and INTO."""
    guest = injecting(l1, event, mode, mapped=True)

    check_return(l1, guest, guest.run(), event, "back")


@clause("nrips.inject.return_address")
@cases("mode", ["long64", "compat32", "prot32"])
@cases("event", TO_NRIP)
def test_from_cpl3(l1, mode, event):
    """Through a gate of DPL 3, to a handler at CPL 0."""
    guest = injecting(l1, event, mode, cpl=3, gate=INTERRUPT_GATE | DPL3, mapped=True)

    check_return(l1, guest, guest.run(), event, "back")


OTHERS = {
    "de": inject_exception("#DE"),
    "db": inject_exception("#DB"),
    "br": BOUND,
    "ud": inject_exception("#UD"),
    "gp": inject_exception("#GP", 0x1230),
    "intr3": inject_interrupt(3),
    "intr4": inject_interrupt(4),
    "intr64": inject_interrupt(0x40),
    "nmi": inject_nmi(),
}


@clause("nrips.inject.others_use_rip")
@cases("mode", ["long64", "prot32"])
@cases("event", OTHERS)
def test_other_events(l1, mode, event):
    """Faults, #DB, interrupts and NMI return to RIP."""
    if event == BOUND and mode == "long64":
        pytest.skip("64-bit code has no BOUND, and #BR cannot be injected into it")
    guest = injecting(l1, event, mode, mapped=True)

    check_return(l1, guest, guest.run(), event, "start", error=bool(event >> 11 & 1))


BEFORE = {
    "cpuid": "cpuid",
    "ud": "ud2",
    "vmmcall": "vmmcall",
    "hlt": raw("66 66 f4"),
    "pf": f"movabs al, [{NO_PAGE}]",
}


@clause("nrips.inject.not_the_exits_before")
@cases("code", BEFORE)
@cases("event", TO_NRIP)
def test_after_another_exit(l1, code, event):
    """L2 exits, with an nRIP of its own or with 0; then L1 sends it elsewhere, with an event and another nRIP."""
    text = f"first: {code}\nnop\nstart: nop\nback: nop\nvmmcall"
    guest = EventGuest(l1, text, intercept=["cpuid", "hlt"], mapped=True)
    first = guest.run()
    assert first.matches(rip=guest["first"])

    guest.vmcb.update({"rip": guest["start"], "eventinj": event, "nrip": guest["back"]})

    check_return(l1, guest, guest.run(), event, "back")


@clause("nrips.inject.not_cached")
@cases("event", TO_NRIP)
def test_clean_bits_do_not_cover_it(l1, event):
    """A second injection with all clean bits set and another nRIP."""
    guest = injecting(l1, event, mapped=True)
    check_return(l1, guest, guest.run(), event, "back")
    top = guest.guest.stack_top

    guest.vmcb.update({"rip": guest["start"], "rsp": top, "eventinj": event, "nrip": guest["start"] + 2})
    guest.vmcb["clean"] = 0xFFFF_FFFF
    exit = guest.run()

    assert guest.took(exit, event & 0xFF)
    assert l1.expect("return address", guest.frame(exit).ip, guest["start"] + 2)


FAILURES = {
    "gate_dpl": ({"cpl": 3}, {}, VMEXIT.EXCP_GP),
    "gate_not_present": ({"gate": NOT_PRESENT_GATE}, {}, VMEXIT.EXCP_NP),
    "idt_limit": ({"idt_limit": 7}, {}, VMEXIT.EXCP_GP),
    "stack_without_a_page": ({}, {"rsp": NO_PAGE}, VMEXIT.EXCP_PF),
    "stack_not_canonical": ({}, {"rsp": NOT_CANONICAL}, VMEXIT.EXCP_SS),
}


@clause("nrips.inject.failed_delivery")
@cases("event", TO_NRIP)
@cases("options, vmcb, code", FAILURES)
def test_delivery_that_fails(l1, event, options, vmcb, code):
    """L2 stands at RIP, not at nRIP; EXITINTINFO has the event, and nRIP is 0, as the exit is an exception's."""
    guest = injecting(l1, event, **options)
    guest.vmcb.update(vmcb)

    exit = guest.run()

    event_part = masked(event, EVENT)
    assert exit.matches(code=code, rip=guest["start"], intinfo=event_part, rsp=exit.before["rsp"], nrip=0)


@clause("nrips.inject.failed_delivery")
@cases("event", TO_NRIP)
@cases("missing", ["idt", "gdt", "stack", "handler"])
def test_delivery_cut_short_by_a_nested_page_fault(l1, event, missing):
    """And once L1 has mapped the page it injects the same again, with the same nRIP."""
    l1.need("NP")
    guest = EventGuest(l1, CANARY, np=True)
    nested = Map(guest.guest, l1.scratch(PAGES))
    stack = guest.guest.stack_top - 8
    page = {"idt": guest.idt, "gdt": guest.gdt, "stack": stack, "handler": guest.at(event & 0xFF)}[missing] & ~0xFFF
    entry = {"rip": guest["start"], "eventinj": event, "nrip": guest["back"]}
    guest.vmcb.update({"n_cr3": nested.base, "tlb_control": 1} | entry)
    nested.set(page, 0)

    exit = guest.run()

    rip = guest["start"] if missing != "handler" else guest.at(event & 0xFF)
    assert exit.matches(code=VMEXIT.NPF, info2=masked(page, ~0xFFF), rip=rip, nrip=0)
    if missing != "handler":  # that is fetched when the delivery is over
        assert exit.matches(intinfo=masked(event, EVENT))
        guest.vmcb.update(entry)
    l1.write(nested.entry(page), (page | 7).to_bytes(8, "little"))
    check_return(l1, guest, guest.run(), event, "back")


@clause("nrips.inject.zero")
@cases("event", TO_NRIP)
def test_zero(l1, event):
    """L1 forgot to write it: 0 is pushed as it stands, or RIP."""
    guest = injecting(l1, event, mapped=True)
    guest.vmcb["nrip"] = 0

    exit = guest.run()

    assert guest.took(exit, event & 0xFF)
    assert l1.expect("return address", guest.frame(exit).ip, any_of(0, guest["start"]))


IRET = {"long64": "iretq", "prot32": "iretd", "real16": "iretw"}
ROUND_TRIPS = {
    "int3": ("int3", "#BP", VMEXIT.EXCP_BP, BREAKPOINT),
    "into": ("into", "#OF", VMEXIT.EXCP_OF, OVERFLOW),
    "int_0x40": ("int 0x40", "intn", VMEXIT.INTN, SOFT),
    "int1": (raw("f1"), "icebp", VMEXIT.ICEBP, inject_exception("#DB")),
    "66_int3": (raw("66 cc"), "#BP", VMEXIT.EXCP_BP, BREAKPOINT),
    "66_int_0x40": (raw("66 cd 40"), "intn", VMEXIT.INTN, SOFT),
}


@clause("nrips.inject.round_trip", "nrips.inject.round_trip_absent")
@pytest.mark.parametrize("mode", list(IRET))
@cases("code, intercept, exitcode, event", ROUND_TRIPS)
def test_intercepted_and_injected(l1, mode, code, intercept, exitcode, event):
    """As L1 does it: the exit, the injection, L2's handler, and L2 goes on behind the instruction, once.

    For INT1's #DB, and for all where NRIPS is missing, L1 moves RIP behind the instruction.
    """
    if code == "into" and mode == "long64":
        pytest.skip("64-bit code has no INTO")
    text = f"start: {code}\nnext: inc bx\nend: vmmcall\nhandler: inc cx\n{IRET[mode]}\nother: vmmcall"
    handlers, regs = {event & 0xFF: "handler"}, {"rbx": 0, "rcx": 0}
    guest = EventGuest(l1, text, mode=mode, handlers=handlers, intercept=[intercept], regs=regs, mapped=True)
    guest.vmcb["rflags"] |= 1 << 11  # OF, for INTO
    exit = guest.run()
    assert exit.matches(code=exitcode, rip=guest["start"], nrip=nrip(l1, guest["next"]))

    if l1.cpuid.has("NRIPS") and exitcode != VMEXIT.ICEBP:
        guest.vmcb["nrip"] = exit.vmcb["nrip"]
    else:
        guest.vmcb["rip"] = guest["next"]
    guest.vmcb["eventinj"] = event

    assert guest.run().reached("end", regs={"rbx": 1, "rcx": 1})
