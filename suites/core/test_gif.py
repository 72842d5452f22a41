"""GIF, the global interrupt flag, as L1 uses it.

CLGI holds back every interrupt and NMI, STGI lets them in again, none lost and none twice (APM2 15.17). VMRUN sets GIF,
so that what L1 held is recognised in L2. A hypervisor relies on it to switch state without being interrupted between
two worlds; an L0 that keeps GIF in a flag of its own, beside the interrupts it has queued, loses some or lets one in
too early.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.interrupts import taken

VECTOR = 0x61
NMI = 2
INSIDE = "nop\nnop\nnop\nnop"


def _held(l1, *, interrupts=True):
    """What is taken with GIF=0, then with GIF=1, then in one more window."""
    before = l1.window(stgi=False, interrupts=interrupts)
    after = l1.window(interrupts=interrupts)
    again = l1.window()
    return [[event.vector for event in events] for events in (before, after, again)]


def _said(l1, got, *, expected):
    for name, events in zip(("with GIF=0", "after STGI", "in a second window"), got, strict=True):
        for vector in sorted(set(expected)):
            wanted = int(name == "after STGI")
            assert l1.expect(f"how often vector {vector:02X}h was taken {name}", events.count(vector), wanted)


def _interrupted(l1, code, vector):
    """Runs L1 code with that interrupt pending; gives the result and what was taken of it."""
    l1.raise_interrupt(vector)
    result = l1.code(code)
    return result, [event for event in result.events if event.vector == vector]


@clause("core.gif.clgi_and_stgi")
@pytest.mark.parametrize("vector", [0x30, 0x61, 0xEF], ids=lambda vector: f"{vector:02x}")
def test_interrupt_is_taken_after_stgi(l1, vector):
    """RFLAGS.IF is set between CLGI and STGI; the interrupt's RIP says where it was taken."""
    result, events = _interrupted(l1, f"clgi\nsti\n{INSIDE}\nstgi\nafter: {INSIDE}\ncli", vector)

    assert result.returned
    assert l1.expect("how often the interrupt was taken", len(events), 1)
    assert l1.expect("it was taken behind STGI", events[0].rip >= result["after"], True)


@clause("core.gif.clgi_and_stgi")
def test_interrupt_is_taken_at_once_without_clgi(l1):
    """The near miss: the same code, with STGI where CLGI was."""
    result, events = _interrupted(l1, f"stgi\nsti\n{INSIDE}\nlast: stgi\n{INSIDE}\ncli", VECTOR)

    assert result.returned
    assert l1.expect("how often the interrupt was taken", len(events), 1)
    assert l1.expect("it was taken before the last STGI", events[0].rip <= result["last"], True)


@clause("core.gif.clgi_and_stgi")
@pytest.mark.parametrize(
    "code",
    [
        "clgi\nclgi\nsti\n{}\nstgi",
        "stgi\nclgi\nsti\n{}\nstgi",
        "sti\nclgi\n{}\nstgi",
        "clgi\nstgi\nclgi\nsti\n{}\nstgi",
    ],
    ids=["clgi_twice", "stgi_first", "sti_first", "off_on_off"],
)
def test_gif_is_a_flag_and_no_counter(l1, code):
    """However it came to be 0, one STGI sets it."""
    result, events = _interrupted(l1, f"{code.format(INSIDE)}\nafter: {INSIDE}\ncli", VECTOR)

    assert result.returned
    assert l1.expect("how often the interrupt was taken", len(events), 1)
    assert l1.expect("it was taken behind STGI", events[0].rip >= result["after"], True)


@clause("core.gif.intr_held")
@pytest.mark.parametrize("vectors", [[0x61], [0x30, 0xEF], [0x40, 0x41, 0x50]], ids=["one", "two", "three"])
def test_interrupts_are_held(l1, vectors):
    """They come while GIF is 0. Windows with RFLAGS.IF=1 look for them with GIF=0 and with GIF=1."""
    l1.code("clgi", keep_state=True)
    for vector in vectors:
        l1.raise_interrupt(vector)

    _said(l1, _held(l1), expected=vectors)


@clause("core.gif.nmi_held")
@pytest.mark.parametrize("interrupts", [False, True], ids=["if0", "if1"])
def test_nmi_is_held(l1, interrupts):
    """With RFLAGS.IF clear too: IF says nothing about NMIs."""
    l1.code("clgi", keep_state=True)
    l1.raise_nmi()

    _said(l1, _held(l1, interrupts=interrupts), expected=[NMI])


@clause("core.gif.nmi_held", "core.gif.intr_held")
def test_interrupt_and_nmi_are_held_together(l1):
    """Neither takes the other's place."""
    l1.code("clgi", keep_state=True)
    l1.raise_interrupt(VECTOR)
    l1.raise_nmi()

    _said(l1, _held(l1), expected=[NMI, VECTOR])


@clause("core.gif.clgi_refused_without_svme")
def test_clgi_without_svme_leaves_gif(l1):
    """The interrupt is taken in a window before which nobody executed STGI."""
    disabled = "mov ecx, 0xC0000080\nrdmsr\nbtr eax, 12\nwrmsr\nhere: clgi"
    result = l1.code(disabled, keep_state=True)
    l1.raise_interrupt(VECTOR)
    events = l1.window(stgi=False)
    l1.code("nop")  # the executor puts EFER.SVME and GIF back after this
    l1.window()

    assert result.faults("#UD", at="here")
    assert l1.expect("how often the interrupt was taken", [event.vector for event in events].count(VECTOR), 1)


@clause("core.gif.set_by_vmrun")
@pytest.mark.parametrize(
    ("event", "clgi"),
    [("intr", True), ("nmi", True), ("intr", False)],  # with GIF=1 L1 would take the NMI itself
    ids=["intr-gif0", "nmi-gif0", "intr-gif1"],
)
def test_vmrun_sets_gif(l1, event, clgi):
    """L2, with its IF set, exits for what L1 has pending at its first instruction."""
    guest = l1.guest(
        "start: mov ebx, 1\nvmmcall", intercept=["nmi"], vmcb={"v_intr_masking": 0, "rflags": 0x202}, regs={"rbx": 5}
    )
    if event == "nmi":
        guest.setup("clgi")
        guest.raise_nmi()
    else:
        guest.raise_interrupt(VECTOR)

    exit = guest.run(clgi=clgi, host_if=False)

    code = VMEXIT.NMI if event == "nmi" else VMEXIT.INTR
    assert exit.matches(code=code, rip=guest["start"], regs={"rbx": 5})
    assert l1.expect("how often L1 took it", len(taken(exit, NMI if event == "nmi" else VECTOR)), 1)
