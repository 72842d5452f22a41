"""Interrupts and NMIs that L1 or L2 takes: a guest whose handler is part of its code, and what L1 saw of them."""

from harness.scenario.steps import Phase
from suites.lib.event_guest import EventGuest

TAIL = "\nhandler: nop\nhandled: vmmcall\nnop\nother: vmmcall"

# Some tens of microseconds on a fast CPU: an NMI that L2 sends itself is there by then. {0} is a label of its own.
WAIT = "mov ecx, 100000\n{0}: dec ecx\njnz {0}\n"


def interruptible(l1, code, vectors=(), *, tail=TAIL, **guest):
    """A guest with `code`, then `tail`; interrupts of `vectors` reach `handler`, all others `other`.

    Behind both is a VMMCALL (`handled` for the handler's): the exit's RIP says which was reached.
    """
    return EventGuest(l1, code + tail, handlers=dict.fromkeys(vectors, "handler"), **guest)


def taken(exit, vector):
    """The interrupts of that vector that L1 took around this VMRUN."""
    return [event for event in exit.events if event.vector == vector]


def taken_after_stgi(l1, exit, vector):
    """True if the interrupt, or NMI, was still L1's: L1 took it once, and not before its STGI."""
    events = taken(exit, vector)
    once = l1.expect(f"how often L1 took vector {vector:02X}h", len(events), 1)
    if not once:
        return once
    return l1.expect("phase in which L1 took it (4: after STGI)", int(events[0].phase), int(Phase.AFTER_STGI))
