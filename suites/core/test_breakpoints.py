"""Breakpoints ahead of an intercept, and breakpoints of an L1 that has cleared GIF.

A breakpoint on an instruction, and the trap that a data breakpoint left of the instruction before, are recognised
before the intercept of the instruction is looked at (APM2 15.7). With GIF=0 a match of a breakpoint register is
discarded, while single stepping by RFLAGS.TF works as ever (APM2 15.17, Table 15-10). A wrong L0 takes the intercept
first, and L2's debugger misses a stop; or it lets a #DB into the part of L1 that has half of L2's state loaded.
"""

import pytest

from harness import VMEXIT, cases, clause
from suites.lib.event_guest import EventGuest

EXECUTE, WRITE_4 = 0, 0xD  # R/W and LEN of breakpoint 0 in DR7[19:16]
ARMED = 0x401  # L0, and the bit that is always 1
ARM = "mov dr0, rbx\nmov eax, {:#x}\nmov dr7, rax\n"
INTERCEPTED = {"cpuid": "cpuid", "rdtsc": "rdtsc", "hlt": "hlt", "wbinvd": "wbinvd", "cr3_read": "mov rax, cr3"}

pytestmark = pytest.mark.dirties("breakpoint registers were used")


@clause("core.intercept.breakpoint_first")
@cases("own", list(INTERCEPTED))
def test_breakpoint_on_an_intercepted_instruction(l1, own):
    """L2 arms it itself. Both are intercepted: exit 41h."""
    guest = l1.guest(f"{ARM.format(ARMED)}at: {INTERCEPTED[own]}\nvmmcall", intercept=[own])
    guest.regs["rbx"] = guest["at"]

    assert guest.run().matches(code=VMEXIT.EXCP_DB, rip=guest["at"])


@clause("core.intercept.breakpoint_first")
@cases("own", list(INTERCEPTED))
def test_breakpoint_that_l2_handles_itself(l1, own):
    """#DB is not intercepted: L2's handler runs before L1 hears of the instruction."""
    code = f"{ARM.format(ARMED)}at: {INTERCEPTED[own]}\nvmmcall"
    guest = EventGuest(l1, code, intercept=[own], no_intercept=["exc_1"])
    guest.guest.regs["rbx"] = guest["at"]

    assert guest.took(guest.run(), 1)


@clause("core.intercept.breakpoint_first")
@cases("own", list(INTERCEPTED))
def test_data_breakpoint_of_the_instruction_before(l1, own):
    """A trap: RIP is at the intercepted instruction already, and the exit is that of #DB."""
    code = f"{ARM.format(ARMED | WRITE_4 << 16)}mov [rbx], eax\nat: {INTERCEPTED[own]}\nvmmcall"
    guest = l1.guest(code, intercept=[own], regs={"rbx": l1.scratch(1)})

    assert guest.run().matches(code=VMEXIT.EXCP_DB, rip=guest["at"])


COUNTED = {1: "inc r15"}
ONCE = {1: "inc r15\npush rax\nmov eax, 0x400\nmov dr7, rax\npop rax"}  # some processors forget RF
BREAK = {
    "execute": ("at: nop", EXECUTE),
    "write": ("mov [rbx], eax", WRITE_4),
}


def _broken(l1, code, kind, first):
    """How often L1 took #DB for breakpoint 0, with `first` executed before."""
    place = l1.scratch(1)
    address = "lea rax, [rip + at]" if kind == EXECUTE else "mov rax, rbx"
    text = f"{first}\n{address}\nmov dr0, rax\nmov eax, {ARMED | kind << 16:#x}\nmov dr7, rax\n{code}\nnop\n"
    text += "mov eax, 0x400\nmov dr7, rax"
    result = l1.code(text, {"rbx": place, "r15": 0}, handlers=ONCE)
    assert result.returned
    return result.reg("r15")


@clause("core.gif.breakpoints_discarded")
@cases("code, kind", BREAK)
def test_breakpoint_with_gif_0(l1, code, kind):
    """DR7 is cleared before GIF is set again, so that nothing can hit late."""
    assert l1.expect("how often L1 took #DB", _broken(l1, code, kind, "clgi"), 0)


@clause("core.gif.breakpoints_discarded")
@cases("code, kind", BREAK)
def test_breakpoint_with_gif_1(l1, code, kind):
    """The neighbour: STGI where CLGI was."""
    assert l1.expect("how often L1 took #DB", _broken(l1, code, kind, "stgi"), 1)


STEPPED = """
    {}
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    nop
first: nop
    pushfq
    and dword ptr [rsp], 0xFFFFFEFF
    popfq
"""


@clause("core.gif.single_step")
@cases("gif", {"gif0": "clgi", "gif1": "stgi"})
def test_single_step_with_gif_0(l1, gif):
    """The first trap comes behind the instruction that follows POPF, whatever GIF is."""
    result = l1.code(STEPPED.format(gif), {"r15": 0}, handlers=COUNTED)

    assert result.returned
    assert l1.expect("L1 took a #DB", bool(result.taken), True)
    assert l1.expect("where L1 took the first #DB", result.taken[0].rip, result["first"])
