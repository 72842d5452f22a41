"""What an injected event does: which handler runs, and what it finds on its stack.

VMRUN with EVENTINJ.V=1 makes L2 take the event before its first instruction, whatever RFLAGS.IF, V_TPR and the
interrupt shadow say, through L2's own IDT, and with the frame that the event would have pushed had it happened in L2
(APM2 15.20). A wrong L0 queues the event behind its own interrupt logic and delivers it late or never, delivers an
NMI under the vector that L1 left in the field, cuts or forgets the error code, or hands L2 the host's return address.
"""

import pytest

from harness import VMEXIT, clause, masked
from harness.svm import inject_exception, inject_interrupt, inject_nmi
from suites.lib.event_guest import EventGuest
from suites.lib.event_tables import DATA0, INTERRUPT_GATE, TRAP_GATE

IF, RF = 1 << 9, 1 << 16
FLAGS = 0x8D7  # OF SF ZF AF PF CF, and the bit that is always 1
MODES = ("long64", "compat32", "pae32", "paged32", "prot32", "real16")
CANARY = "start: mov ebx, 0x0bad\nvmmcall"
NO_V = (1 << 31) - 1


def check_frame(l1, guest, exit, *, ip, flags=FLAGS, error=None):
    """The frame of a delivery that did not change the privilege level: return address, CS, RFLAGS, old stack."""
    frame = guest.frame(exit, error=error is not None)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed(error=error is not None))
    assert l1.expect("return address", frame.ip, ip)
    assert l1.expect("CS in the frame", frame.cs, exit.before["cs.selector"])
    assert l1.expect("RFLAGS in the frame", frame.flags & ~RF, flags)
    if guest.long:
        assert l1.expect("RSP in the frame", frame.sp, exit.before["rsp"])
        assert l1.expect("SS in the frame", frame.ss & 0xFFFF, DATA0)
    if error is not None:
        assert l1.expect("error code", frame.error, error)


@clause("core.inject.interrupt")
@pytest.mark.parametrize(
    ("mode", "vector"),
    [(mode, 0x20) for mode in MODES] + [("long64", 0x68), ("long64", 0xFF), ("prot32", 0xFF)],
    ids=lambda value: value if isinstance(value, str) else f"vector{value:02x}",
)
def test_interrupt_is_delivered(l1, mode, vector):
    """Before L2's first instruction: EBX is as L1 gave it, the frame names that instruction."""
    guest = EventGuest(l1, CANARY, mode=mode, regs={"rbx": 0x600D}, vmcb={"rflags": FLAGS | IF})
    guest.guest.vmcb["eventinj"] = inject_interrupt(vector)

    exit = guest.run()

    assert guest.took(exit, vector, regs={"rbx": 0x600D}, intinfo=masked(0, 1 << 31))
    check_frame(l1, guest, exit, ip=guest["start"], flags=FLAGS | IF)


UNCONDITIONAL = [
    pytest.param({}, id="if0"),
    pytest.param({"rflags": FLAGS | IF}, id="if1"),
    pytest.param({"v_tpr": 15}, id="if0-tpr15"),
    pytest.param({"rflags": FLAGS | IF, "v_tpr": 15}, id="if1-tpr15"),
    pytest.param({"interrupt_shadow": 1}, id="if0-shadow"),
    pytest.param({"rflags": FLAGS | IF, "interrupt_shadow": 1}, id="if1-shadow"),
    pytest.param({"v_intr_masking": 0}, id="if0-no_v_intr_masking"),
]


@clause("core.inject.interrupt")
@pytest.mark.parametrize("fields", UNCONDITIONAL)
def test_nothing_masks_an_injected_interrupt(l1, fields):
    """Neither IF nor V_TPR nor the interrupt shadow; vector 30h has the priority class 3, below TPR's 15."""
    guest = EventGuest(l1, CANARY, regs={"rbx": 0x600D}, vmcb={"rflags": FLAGS} | fields)
    guest.guest.vmcb["eventinj"] = inject_interrupt(0x30)

    exit = guest.run()

    assert guest.took(exit, 0x30, regs={"rbx": 0x600D})
    check_frame(l1, guest, exit, ip=guest["start"], flags=exit.before["rflags"])


@clause("core.inject.interrupt")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize(
    ("gate", "left"),
    [pytest.param(INTERRUPT_GATE, 0, id="interrupt_gate"), pytest.param(TRAP_GATE, IF, id="trap_gate")],
)
def test_gate_decides_about_if(l1, mode, gate, left):
    """As for any event: an interrupt gate clears IF, a trap gate leaves it."""
    guest = EventGuest(l1, CANARY, mode=mode, gate=gate, vmcb={"rflags": FLAGS | IF})
    guest.guest.vmcb["eventinj"] = inject_interrupt(0x40)

    exit = guest.run()

    assert guest.took(exit, 0x40, rflags=masked(left, IF))
    check_frame(l1, guest, exit, ip=guest["start"], flags=FLAGS | IF)


@clause("core.inject.interrupt")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_interrupt_of_cpl_3_uses_the_stack_of_the_tss(l1, mode):
    """The privilege level changes: the new stack is the TSS's, the old one is in the frame."""
    guest = EventGuest(l1, CANARY, mode=mode, cpl=3, vmcb={"rflags": FLAGS | IF})
    guest.guest.vmcb["eventinj"] = inject_interrupt(0x40)

    exit = guest.run()

    frame = guest.frame(exit)
    assert guest.took(exit, 0x40, cpl=0)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())
    assert l1.expect("return address", frame.ip, guest["start"])
    assert l1.expect("CS in the frame", frame.cs, exit.before["cs.selector"])
    assert l1.expect("RSP in the frame", frame.sp, exit.before["rsp"])
    assert l1.expect("SS in the frame", frame.ss & 0xFFFF, exit.before["ss.selector"])


@clause("core.inject.not_valid")
@pytest.mark.parametrize("mode", ["long64", "real16"])
@pytest.mark.parametrize(
    "event",
    [inject_interrupt(0x40) & NO_V, inject_nmi() & NO_V, inject_exception("#GP", 0xABCD) & ~(1 << 31)],
    ids=["intr", "nmi", "gp"],
)
def test_nothing_is_taken_without_v(l1, mode, event):
    """All but V is right, handlers are there, IF is 1: L2's first instruction runs, and nothing was pushed."""
    guest = EventGuest(l1, "start: mov ebx, 0x600d\nend: vmmcall", mode=mode, vmcb={"rflags": FLAGS | IF})
    guest.guest.vmcb["eventinj"] = event

    exit = guest.run()

    rsp = exit.before["rsp"]
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rsp=rsp, intinfo=masked(0, 1 << 31))
    assert l1.expect("RBX", exit.regs["rbx"] & 0xFFFF, 0x600D)


@clause("core.inject.nmi_vector")
@pytest.mark.parametrize("vector", [0, 2, 13, 0x55, 0xFF], ids=lambda vector: f"vector{vector:02x}")
def test_nmi_has_vector_2(l1, vector):
    """Whatever VECTOR says."""
    guest = EventGuest(l1, CANARY, regs={"rbx": 0x600D}, vmcb={"rflags": FLAGS})
    guest.guest.vmcb["eventinj"] = inject_nmi() & ~0xFF | vector

    exit = guest.run()

    assert guest.took(exit, 2, regs={"rbx": 0x600D})
    check_frame(l1, guest, exit, ip=guest["start"])


@clause("core.inject.nmi_vector")
@pytest.mark.parametrize("mode", MODES[1:])
def test_nmi_in_every_mode(l1, mode):
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"rflags": FLAGS})
    guest.guest.vmcb["eventinj"] = inject_nmi() & ~0xFF | 0x41

    exit = guest.run()

    assert guest.took(exit, 2)
    check_frame(l1, guest, exit, ip=guest["start"])


@clause("core.inject.exception")
@pytest.mark.parametrize(
    ("mode", "name"),
    [(mode, "#UD") for mode in MODES]
    + [(mode, name) for mode in ("long64", "real16") for name in ("#DE", "#NM", "#MF")],
)
def test_exception_without_an_error_code(l1, mode, name):
    """A fault's return address is L2's RIP, and nothing lies below it. In real mode the table is the IVT at IDTR."""
    event = inject_exception(name)
    guest = EventGuest(l1, CANARY, mode=mode, regs={"rbx": 0x600D}, vmcb={"rflags": FLAGS | IF})
    guest.guest.vmcb["eventinj"] = event

    exit = guest.run()

    assert guest.took(exit, event & 0xFF, regs={"rbx": 0x600D})
    check_frame(l1, guest, exit, ip=guest["start"], flags=FLAGS | IF)


@clause("core.inject.error_code")
@pytest.mark.parametrize("mode", ["long64", "paged32"])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("#DF", 0), ("#TS", 0x1238), ("#NP", 0xABCC), ("#SS", 0x5678), ("#GP", 0xABCD), ("#PF", 0x0015), ("#AC", 0),
    ],
)  # fmt: skip
def test_exception_with_an_error_code(l1, mode, name, error):
    """EV=1: ERRORCODE lies below the return address."""
    event = inject_exception(name, error)
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"rflags": FLAGS | IF, "eventinj": event})

    exit = guest.run()

    assert guest.took(exit, event & 0xFF)
    check_frame(l1, guest, exit, ip=guest["start"], flags=FLAGS | IF, error=error)


@clause("core.inject.error_code")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("name", ["#PF", "#GP"])
def test_error_code_has_32_bits(l1, mode, name):
    """The upper half of ERRORCODE is pushed too: #PF has bit 31 (RMP) in use."""
    event = inject_exception(name, 0x8123_4567)
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"rflags": FLAGS, "eventinj": event})

    exit = guest.run()

    assert guest.took(exit, event & 0xFF)
    check_frame(l1, guest, exit, ip=guest["start"], error=0x8123_4567)


@clause("core.inject.error_code")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_error_code_field_means_nothing_without_ev(l1, mode):
    """The legal neighbour: ERRORCODE is filled, EV is 0, nothing is pushed for #UD."""
    event = inject_exception("#UD") | 0xABCD << 32
    guest = EventGuest(l1, CANARY, mode=mode, vmcb={"rflags": FLAGS, "eventinj": event})

    exit = guest.run()

    assert guest.took(exit, 6)
    check_frame(l1, guest, exit, ip=guest["start"])


@clause("core.inject.page_fault_leaves_cr2")
@pytest.mark.parametrize("mode", ["long64", "paged32"])
def test_page_fault_finds_the_cr2_of_the_vmcb(l1, mode):
    """Injection itself writes nothing to CR2: L1 gives it in the VMCB. L1's own CR2 holds another value."""
    fields = {"rflags": FLAGS, "cr2": 0x1122_3344, "eventinj": inject_exception("#PF", 6)}
    guest = EventGuest(l1, CANARY, mode=mode, vmcb=fields)
    guest.guest.setup("mov cr2, rax", {"rax": 0x5566_7788})

    exit = guest.run()

    assert guest.took(exit, 14, cr2=0x1122_3344)
