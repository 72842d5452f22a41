"""Virtual interrupts and clean bit 3.

All of 060h to 067h stands behind bit 3 (APM2 15.15.3). L2 takes a virtual interrupt and the CPU writes V_IRQ back as 0:
that counts as unmodified, and with the bit set the interrupt may not come again. An L0 that keeps V_IRQ as it was when
L1 last cleared the bit interrupts L2 for ever; one that forgets a field of the group loses interrupts.
"""

from harness import any_of, cases, clause
from harness.svm import Clean
from suites.lib.event_guest import EventGuest
from suites.vmcbclean.probes import EVERY, bit_set, clear

OLD, NEW, NONE = 0x51, 0x93, 0
REQUEST = {"v_irq": 1, "v_intr_prio": 15, "v_ign_tpr": 0, "v_intr_vector": OLD, "v_tpr": 0}
IF = 0x202

# The field that L1 changes: what it holds at first, what then, and which interrupt L2 takes with either.
FIELDS = {
    "v_irq": ({"v_irq": 0}, {"v_irq": 1}, NONE, OLD),
    "v_irq_withdrawn": ({"v_tpr": 15, "v_intr_prio": 1}, {"v_irq": 0, "v_intr_prio": 15, "v_tpr": 0}, NONE, NONE),
    "v_intr_prio": ({"v_tpr": 8, "v_intr_prio": 5}, {"v_intr_prio": 9}, NONE, OLD),
    "v_ign_tpr": ({"v_tpr": 8, "v_intr_prio": 5}, {"v_ign_tpr": 1}, NONE, OLD),
    "v_tpr": ({"v_tpr": 8, "v_intr_prio": 5}, {"v_tpr": 4}, NONE, OLD),
    "v_intr_vector": ({"v_irq": 0}, {"v_irq": 1, "v_intr_vector": NEW}, NONE, NEW),
    "v_gif": ({"v_gif_enable": 1, "v_gif": 0}, {"v_gif": 1}, NONE, OLD),
}


def guest_of(l1, name):
    """A guest with a handler for each vector, whose virtual interrupt is as the case has it at first."""
    if name == "v_gif":
        l1.need("VGIF")
    return EventGuest(l1, "again: nop\nnop\nend: vmmcall", mapped=True, vmcb=REQUEST | {"rflags": IF} | FIELDS[name][0])


def took(guest, exit):
    """The vector that L2 took (every vector's handler is 4 bytes), or NONE where it came to its end."""
    return NONE if exit.rip == guest["end"] else (exit.rip - guest.at(0)) // 4


def again(guest, clean):
    """Runs L2 from its beginning; the vector that it took."""
    guest.vmcb.update({"rip": guest["again"], "rflags": IF, "clean": clean})
    exit = guest.run()
    assert exit.ran
    return took(guest, exit)


@clause("vmcbclean.tpr", "vmcbclean.absent")
@cases("clean", clear(Clean.TPR))
@cases("name", list(FIELDS))
def test_interrupt_changed(l1, name, clean):
    """With bit 3 clear the new value counts."""
    guest, (_, new, first, then) = guest_of(l1, name), FIELDS[name]
    assert l1.expect("vector that L2 takes at first", again(guest, 0), first)

    guest.vmcb.update(new)

    assert l1.expect("vector that L2 takes after the change", again(guest, clean), then)


@clause("vmcbclean.hint", "vmcbclean.absent")
@cases("clean", bit_set(Clean.TPR))
@cases("name", list(FIELDS))
def test_interrupt_and_bit_says_unchanged(l1, name, clean):
    """With bit 3 set the old value counts, or the new one."""
    guest, (_, new, first, then) = guest_of(l1, name), FIELDS[name]
    assert l1.expect("vector that L2 takes at first", again(guest, 0), first)

    guest.vmcb.update(new)

    expected = l1.either("VmcbClean", offered=any_of(first, then), absent=then)
    assert l1.expect("vector that L2 takes after the change", again(guest, clean), expected)


@clause("vmcbclean.v_irq_taken", "vmcbclean.absent")
def test_interrupt_that_was_taken_does_not_come_again(l1):
    """Then L1 asks for another one, with bit 3 clear, and L2 takes it."""
    guest = guest_of(l1, "v_irq")
    guest.vmcb["v_irq"] = 1
    assert l1.expect("vector that L2 takes at first", again(guest, 0), OLD)
    assert l1.expect("V_IRQ at the exit", guest.vmcb["v_irq"], 0, width_bytes=1)

    assert l1.expect("vector that L2 takes with all bits set", again(guest, EVERY), NONE)

    guest.vmcb["v_irq"] = 1
    assert l1.expect("vector that L2 takes when L1 asks again", again(guest, EVERY & ~(1 << Clean.TPR)), OLD)
