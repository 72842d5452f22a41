"""Virtual interrupts that L2 takes.

With V_IRQ=1 L2 takes an interrupt with V_INTR_VECTOR as soon as its IF, its V_TPR, GIF and the interrupt shadow let it,
and V_IRQ is then 0 (APM2 15.21.4). L1 gives its guests all their interrupts that way. A wrong L0 delivers it too early,
or again at the next VMRUN, or compares the priorities wrongly; an L0 that uses V_IRQ itself to find the moment when it
can inject mixes up its own request and L1's.
"""

import pytest

from harness import VMEXIT, clause, masked
from suites.lib.event_guest import MODES
from suites.lib.interrupts import interruptible, taken

VECTOR = 0x51
IF = 0x200
OFF, ON = 0x002, 0x202
OPEN = "push 0x202\npopfq\nopen: nop\nnop"  # L2, entered with IF=0, sets it; POPF has no shadow


def _virtual(vector=VECTOR, prio=15, tpr=0, rflags=ON, **fields):
    return {"v_irq": 1, "v_intr_prio": prio, "v_tpr": tpr, "v_intr_vector": vector, "rflags": rflags} | fields


def _delivered(l1, guest, exit, label, *, rflags=ON):
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"], v_irq=0, rflags=masked(0, IF))
    pushed = guest.frame(exit)
    assert l1.expect("bytes pushed", guest.depth(exit), guest.pushed())
    assert l1.expect("RIP in the frame", pushed.ip, guest[label])
    assert l1.expect("CS in the frame", pushed.cs, exit.before["cs.selector"])
    assert l1.expect("RFLAGS.IF in the frame", pushed.flags, masked(rflags, IF))


@clause("core.vintr.taken")
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
@pytest.mark.parametrize("mode", MODES)
def test_virtual_interrupt_is_taken_before_the_first_instruction(l1, mode, masking):
    """L2's IF is set at VMRUN. V_INTR_MASKING does not matter to it, nor does L1's IF."""
    guest = interruptible(l1, "start: nop\nnop", [VECTOR], mode=mode, vmcb=_virtual(v_intr_masking=masking))

    exit = guest.run(host_if=False)

    _delivered(l1, guest, exit, "start")


@clause("core.vintr.taken")
@pytest.mark.parametrize("np", [False, True], ids=["np0", "np1"])
@pytest.mark.parametrize("vector", [0x20, 0x30, 0x7F, 0x80, 0xFF], ids=lambda vector: f"{vector:02x}")
def test_vector_is_v_intr_vector(l1, vector, np):
    """All other gates lead elsewhere."""
    if np:
        l1.need("NP")
    guest = interruptible(l1, OPEN, [vector], np=np, vmcb=_virtual(vector, rflags=OFF))

    exit = guest.run()

    _delivered(l1, guest, exit, "open")


@clause("core.vintr.taken")
def test_v_irq_clear_is_no_interrupt(l1):
    """The near miss: all the rest of the request, but V_IRQ=0."""
    guest = interruptible(l1, f"{OPEN}\nend: vmmcall", [VECTOR], vmcb=_virtual(rflags=OFF) | {"v_irq": 0})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=0)


@clause("core.vintr.taken")
@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("nop\nsti\nnop\nafter: nop\nnop", "after"),
        ("pushfq\nor dword ptr [rsp], 0x200\npopfq\nafter: nop\nnop", "after"),
    ],
    ids=["sti", "popf"],
)
def test_virtual_interrupt_waits_for_l2_to_set_if(l1, code, label):
    """STI has a shadow of one instruction, POPF has none."""
    guest = interruptible(l1, code, [VECTOR], vmcb=_virtual(rflags=OFF))

    exit = guest.run()

    _delivered(l1, guest, exit, label)


@clause("core.vintr.taken")
@pytest.mark.parametrize("mode", MODES)
def test_virtual_interrupt_is_masked_by_l2s_if(l1, mode):
    """L1's IF is set, and V_INTR_MASKING; V_IRQ is still 1 at the exit."""
    guest = interruptible(l1, "nop\nnop\nend: vmmcall", [VECTOR], mode=mode, vmcb=_virtual(rflags=OFF))

    exit = guest.run(host_if=True)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1, v_intr_vector=VECTOR)


@clause("core.vintr.taken")
def test_virtual_interrupt_is_taken_once(l1):
    """The handler returns, and L2 runs on to its end with IF=1; a second run finds no V_IRQ either."""
    guest = interruptible(
        l1,
        f"{OPEN}\nend: vmmcall\nnop\nagain: vmmcall",
        [VECTOR],
        tail="\nhandler: inc ebx\niretq\nother: vmmcall",
        vmcb=_virtual(rflags=OFF),
        regs={"rbx": 0},
    )
    guest.vmcb.update({"cs.selector": 8} | {f"{name}.selector": 16 for name in ("ss", "ds", "es")})

    first = guest.run()
    first_ok = first.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=0, regs={"rbx": 1})
    guest.vmcb["rip"] = guest["end"] + 3
    second = guest.run()

    assert first_ok
    assert second.matches(code=VMEXIT.VMMCALL, rip=guest["again"], v_irq=0, regs={"rbx": 0})


@clause("core.vintr.taken")
def test_virtual_interrupt_that_was_not_taken_is_taken_by_the_next_run(l1):
    """L2 exits with IF=0 and V_IRQ=1, L1 sets L2's IF, and the request in the VMCB is still good."""
    guest = interruptible(l1, "nop\nend: vmmcall\nnext: nop\nnop", [VECTOR], vmcb=_virtual(rflags=OFF))
    first = guest.run()
    first_ok = first.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1)
    guest.vmcb.update({"rip": guest["next"], "rflags": ON})

    exit = guest.run()

    assert first_ok
    _delivered(l1, guest, exit, "next")


@clause("core.vintr.taken")
def test_virtual_interrupt_wakes_hlt(l1):
    """The shadow of STI covers HLT, so that L2 sleeps; the request that is pending wakes it at once."""
    guest = interruptible(l1, "sti\nhlt\nafter: nop\nnop", [VECTOR], vmcb=_virtual(rflags=OFF))

    exit = guest.run(watchdog_us=100_000)

    _delivered(l1, guest, exit, "after")


PRIORITIES = [(1, 0), (15, 0), (8, 7), (15, 14), (2, 1)]
MASKED = [(0, 1), (0, 15), (7, 8), (14, 15), (1, 2), (8, 10)]


def _ids(pairs):
    return [f"prio{prio:x}-tpr{tpr:x}" for prio, tpr in pairs]


@clause("core.vintr.taken")
@pytest.mark.parametrize(("prio", "tpr"), PRIORITIES, ids=_ids(PRIORITIES))
def test_higher_priority_is_taken(l1, prio, tpr):
    """The vector's own class (5) says nothing: V_INTR_PRIO does."""
    guest = interruptible(l1, OPEN, [VECTOR], vmcb=_virtual(prio=prio, tpr=tpr, rflags=OFF))

    exit = guest.run()

    _delivered(l1, guest, exit, "open")
    assert exit.matches(v_tpr=masked(tpr, 15))


@clause("core.vintr.masked_by_tpr")
@pytest.mark.parametrize(("prio", "tpr"), MASKED, ids=_ids(MASKED))
def test_lower_priority_is_masked(l1, prio, tpr):
    """L2 sets its IF, which the interrupt has not waited for."""
    vmcb = _virtual(prio=prio, tpr=tpr, rflags=OFF)
    guest = interruptible(l1, f"{OPEN}\nend: vmmcall", [VECTOR], vmcb=vmcb)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1, v_intr_vector=VECTOR, v_intr_prio=prio)


@clause("core.vintr.equal_priority")
@pytest.mark.parametrize("level", [1, 8, 15], ids=["level1", "level8", "levelf"])
def test_equal_priority_is_masked_or_taken_but_not_both(l1, level):
    """What is asked is that V_IRQ says what happened."""
    vmcb = _virtual(prio=level, tpr=level, rflags=OFF)
    guest = interruptible(l1, f"{OPEN}\nend: vmmcall", [VECTOR], vmcb=vmcb)

    exit = guest.run()

    waits = exit.rip == guest["end"]
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"] if waits else guest["handled"], v_irq=int(waits))


@clause("core.vintr.ignore_tpr")
@pytest.mark.parametrize(("prio", "tpr"), [(0, 15), (0, 1), (7, 8)], ids=_ids([(0, 15), (0, 1), (7, 8)]))
def test_v_ign_tpr(l1, prio, tpr):
    """What V_TPR masked above is taken with V_IGN_TPR=1."""
    guest = interruptible(l1, OPEN, [VECTOR], vmcb=_virtual(prio=prio, tpr=tpr, rflags=OFF, v_ign_tpr=1))

    exit = guest.run()

    _delivered(l1, guest, exit, "open")


@clause("core.vintr.ignore_tpr")
def test_v_ign_tpr_ignores_no_if(l1):
    """The near miss: V_IGN_TPR=1 with L2's IF=0."""
    guest = interruptible(l1, "nop\nend: vmmcall", [VECTOR], vmcb=_virtual(prio=0, tpr=15, rflags=OFF, v_ign_tpr=1))

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_irq=1)


@clause("core.vintr.shadow")
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
@pytest.mark.parametrize(("shadow", "label"), [(0, "start"), (1, "second")], ids=["shadow0", "shadow1"])
def test_shadow_at_vmrun_holds_back_a_virtual_interrupt(l1, shadow, label, mode):
    """The frame says after which instruction it was taken."""
    vmcb = _virtual(interrupt_shadow=shadow)
    guest = interruptible(l1, "start: nop\nsecond: nop\nnop", [VECTOR], mode=mode, vmcb=vmcb)

    exit = guest.run()

    _delivered(l1, guest, exit, label)
    assert exit.matches(interrupt_shadow=0)


EXCEPTIONS = [0, 1, 2, 3, 6, 8, 10, 13, 14, 17, 18, 31]


@clause("core.vintr.not_an_exception")
@pytest.mark.parametrize("vector", EXCEPTIONS, ids=lambda vector: f"vector{vector}")
def test_vector_of_an_exception(l1, vector):
    """All exceptions are intercepted. No error code is pushed, and nothing is in EXITINTINFO."""
    guest = interruptible(l1, OPEN, [vector], vmcb=_virtual(vector, rflags=OFF))

    exit = guest.run()

    _delivered(l1, guest, exit, "open")
    assert exit.matches(intinfo=masked(0, 1 << 31))


@clause("core.vintr.physical_first")
def test_l2_takes_the_physical_interrupt_first(l1):
    """Neither is intercepted. The physical interrupt's handler is reached with IF=0 and the virtual one waits."""
    guest = interruptible(
        l1, "start: nop\nnop", [0x61], no_intercept=["intr"], vmcb=_virtual(vector=0x71, v_intr_masking=0)
    )
    guest.raise_interrupt(0x61)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"], v_irq=1)
    assert l1.expect("RIP in the frame", guest.frame(exit).ip, guest["start"])
    assert l1.expect("how often L1 took the interrupt", len(taken(exit, 0x61)), 0)


@clause("core.vintr.physical_first")
def test_virtual_interrupt_comes_after_the_physical_one(l1):
    """The physical interrupt's handler returns, and then the virtual one, which still waits, is taken."""
    guest = interruptible(
        l1,
        "start: nop\nnop\nnop\nend: vmmcall",
        [0x61],
        tail="\nhandler: inc ebx\niretq\nother: nop\nsecond: vmmcall",
        no_intercept=["intr"],
        vmcb=_virtual(vector=0x71, v_intr_masking=0),
        regs={"rbx": 0},
    )
    guest.vmcb.update({"cs.selector": 8} | {f"{name}.selector": 16 for name in ("ss", "ds", "es")})
    guest.raise_interrupt(0x61)

    exit = guest.run(host_if=False)

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["second"], v_irq=0, regs={"rbx": 1})
    assert l1.expect("RIP in the virtual interrupt's frame", guest.frame(exit).ip, guest["start"])


@clause("core.vintr.physical_first", "core.interrupts.intr_exit")
@pytest.mark.parametrize("masking", [0, 1], ids=["masking0", "masking1"])
@pytest.mark.parametrize("intercept", [[], ["vintr"]], ids=["vintr_free", "vintr_intercepted"])
def test_l2_exits_for_the_physical_interrupt_first(l1, intercept, masking):
    """INTR is intercepted: exit 60h, and the virtual interrupt has not been delivered."""
    guest = interruptible(l1, "start: nop\nnop", [], intercept=intercept, vmcb=_virtual(v_intr_masking=masking))
    rsp = guest.vmcb["rsp"]
    guest.raise_interrupt(0x61)

    exit = guest.run(host_if=True)

    assert exit.matches(code=VMEXIT.INTR, rip=guest["start"], rsp=rsp, v_irq=1)
    assert l1.expect("how often L1 took the interrupt", len(taken(exit, 0x61)), 1)
