"""L2's own page faults under nested paging, and nested faults in the middle of an event's delivery.

With nested paging L2 owns its page faults: #PF goes to L2's handler with CR2 set unless L1 intercepts it, and then
EXITINFO2 is the linear address (APM2 15.25.6). A nested fault while an event is being delivered exits with the event in
EXITINTINFO, so that L1 can inject it again (15.7.2). An L0 that loses it loses an interrupt or exception of L2.
"""

import pytest

from harness import VMEXIT, clause, masked, unchanged
from harness.scenario.steps import TableKind
from harness.svm import npf_info
from suites.lib.event_tables import with_handlers
from suites.lib.nested_maps import OPEN, nested_guest, own_tables

PF = 0x4E
LOW_HALF = 0xFFFF_FFFF
HANDLER = "handler: pop {a}cx\nmov {a}dx, [{a}sp]\nmov {a}si, cr2\nend: vmmcall"
PROBES = {"read": ("mov al, [{a}bx]", 0), "write": ("mov [{a}bx], al", 2)}


def with_idt(l1, code, mode="long64", **options):
    """A guest whose vectors all lead to `handler`; the address of its IDT as well."""
    guest, nested = nested_guest(l1, code, mode=mode, **options)
    idt, _ = with_handlers(l1, guest, guest["handler"])
    return guest, nested, idt


@clause("np.guest_fault.delivered")
@pytest.mark.parametrize("access", PROBES)
@pytest.mark.parametrize("mode", ["long64", "pae32"])
def test_page_fault_is_l2s_own(l1, mode, access):
    """Not intercepted: L2's handler sees error code, RIP and CR2, and L1 sees nothing."""
    a = "r" if mode == "long64" else "e"
    insn, error = PROBES[access]
    far = 0xC012_3456
    guest, _, _ = with_idt(
        l1,
        f"probe: {insn}\nvmmcall\n{HANDLER}".format(a=a),
        mode,
        no_intercept=["#PF"],
        regs={"rbx": far, "rsi": 0, "rcx": 0x55},
        vmcb={"cr2": 0x1111},
    )
    if mode == "long64":
        own_tables(l1, guest).set(far, 0, 3)
    else:
        tables = l1.scratch(5)
        # The executor's PAE map: the top table, then four directories; the last gigabyte is taken away.
        guest.tables(tables, TableKind.PAE)
        guest.write(tables + 24, bytes(8))
        guest.vmcb["cr3"] = tables

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr2=far)
    assert l1.expect("CR2 in the handler", exit.regs["rsi"] & LOW_HALF, far)
    assert l1.expect("error code in the handler", exit.regs["rcx"] & LOW_HALF, error)
    assert l1.expect("RIP in the frame", exit.regs["rdx"] & LOW_HALF, guest["probe"])


@clause("np.guest_fault.intercepted")
@pytest.mark.parametrize("access", PROBES)
def test_intercepted_page_fault(l1, access):
    """The linear address, though guest physical ones are what nested paging is about."""
    insn, error = PROBES[access]
    far = 0x0000_7FED_C012_3456
    guest, _ = nested_guest(l1, f"probe: {insn}\nvmmcall".format(a="r"), regs={"rbx": far})

    assert guest.run().matches(code=PF, rip=guest["probe"], info1=error, info2=far)


VALID = 1 << 31
INJECTED = {"intr": VALID | 0x40, "nmi": VALID | 2 << 8 | 2, "ud": VALID | 3 << 8 | 6}


def delivery_fault(page, event, *, write=False):
    """What a #VMEXIT says when delivery of the event meets a page that is not mapped; L2 stands before the event."""
    return {
        "code": VMEXIT.NPF,
        "info1": npf_info(present=False, write=write),
        "info2": masked(page, ~0xFFF),
        "intinfo": masked(event, LOW_HALF),
        "rsp": unchanged,
    }


@clause("np.guest_fault.during_delivery")
@pytest.mark.parametrize("event", INJECTED)
def test_injected_event_whose_gate_is_missing(l1, event):
    """The nested tables do not map the page of L2's IDT."""
    guest, nested, idt = with_idt(l1, "start: vmmcall\nhandler: vmmcall", vmcb={"eventinj": INJECTED[event]})
    nested.set(idt, 0)

    assert guest.run().matches(rip=guest["start"], **delivery_fault(idt, INJECTED[event]))


@clause("np.guest_fault.during_delivery")
def test_injected_event_whose_stack_is_missing(l1):
    """The frame is written after the gate was read."""
    stack = l1.scratch(1)
    guest, nested, _ = with_idt(
        l1, "start: vmmcall\nhandler: vmmcall", vmcb={"eventinj": INJECTED["intr"], "rsp": stack + 0x800}
    )
    nested.set(stack, 0)

    assert guest.run().matches(rip=guest["start"], **delivery_fault(stack, INJECTED["intr"], write=True))


@clause("np.guest_fault.during_delivery")
@pytest.mark.parametrize(
    ("insn", "event"), [("ud2", VALID | 3 << 8 | 6), ("int 0x80", VALID | 4 << 8 | 0x80)], ids=["ud", "int"]
)
def test_event_of_l2s_own_whose_gate_is_missing(l1, insn, event):
    """Nothing was injected: L2 raised it."""
    guest, nested, idt = with_idt(l1, f"nop\nprobe: {insn}\nhandler: vmmcall", no_intercept=["#UD"])
    nested.set(idt, 0)

    assert guest.run().matches(rip=guest["probe"], **delivery_fault(idt, event))


@clause("np.guest_fault.during_delivery")
def test_injected_again_after_repair(l1):
    """What L1 makes of EXITINTINFO: it maps the page, injects the event again, and L2's handler runs."""
    guest, nested, idt = with_idt(l1, "start: vmmcall\nhandler: vmmcall", vmcb={"eventinj": INJECTED["intr"]})
    nested.set(idt, 0)
    exit = guest.run()
    assert exit.matches(code=VMEXIT.NPF, intinfo=masked(INJECTED["intr"], LOW_HALF))
    l1.write(nested.entry(idt), (idt | OPEN).to_bytes(8, "little"))
    guest.vmcb["eventinj"] = exit.vmcb["exitintinfo"] & LOW_HALF

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"], intinfo=masked(0, VALID))
