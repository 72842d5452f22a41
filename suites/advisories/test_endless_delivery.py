"""XSA-156: CVE-2015-5307 (#AC) and CVE-2015-8104 (#DB): an exception whose delivery raises it again.

The CPU's microcode delivers a benign exception once more for each time that the delivery raises it, and looks at no
interrupt meanwhile. A misaligned stack of a handler at CPL 3 gives that for #AC; a breakpoint on the stack that the TSS
names for #DB gives it for #DB. An operating system could so take a CPU away from its hypervisor for ever, with all of
its hypervisor's other guests: KVM, Xen and others, Intel and AMD, until November 2015.

The way out is that L0 intercepts both exceptions for itself, whatever L1 says, and delivers them: then its own
interrupts are asked in each round, and L1's, too. Here L1 intercepts neither, and its watchdog's interrupt must end
L2: L1 sees exit 60h, or whatever else ends L2. On bare hardware nothing of the kind holds (whole clause): there the
tests are not run, as they hang the CPU.
"""

import pytest

from harness import clause
from suites.lib.event_guest import CODE3, EventGuest

IST_SELECTOR = 0x30
WRITE_8 = 0x0009_0401  # DR7: DR0 for writes of eight bytes
RFLAGS_AC, CR0_AM = 1 << 18, 1 << 18


def _need_an_l0(l1):
    if not l1.cpuid.hypervisor:
        pytest.skip("CPUID does not say that there is a hypervisor below: the test would hang the CPU")


@clause("advisories.endless_delivery.ac")
@pytest.mark.dangerous
def test_alignment_check_in_its_own_delivery(l1):
    """The handler is at CPL 3, on a stack that is not aligned."""
    _need_an_l0(l1)
    guest = EventGuest(l1, "mov eax, [ebx + 1]\nend: vmmcall", mode="prot32", cpl=3, no_intercept=["#AC"])
    gate = guest.gate_address(17)
    guest.guest.write(gate + 2, CODE3.to_bytes(2, "little"))
    guest.guest.write(gate + 5, b"\xee")
    guest.vmcb["cr0"] |= CR0_AM
    guest.vmcb.update({"rflags": RFLAGS_AC | 2, "rsp": guest.vmcb["rsp"] - 0x41})
    guest.guest.regs["rbx"] = l1.scratch(1)

    exit = guest.run()

    assert exit.ran
    assert l1.guest("end: vmmcall").run().reached("end")


@clause("advisories.endless_delivery.db")
@pytest.mark.dangerous
@pytest.mark.dirties("L2 raised #DB without end")
def test_breakpoint_on_the_stack_of_the_debug_handler(l1):
    """The #DB handler's stack is IST 1's, the same at each delivery."""
    _need_an_l0(l1)
    guest = EventGuest(l1, "push rax\nnop\nend: vmmcall", no_intercept=["#DB"])
    tss, stack = l1.scratch(1), l1.scratch(1)
    top = stack + 0x800
    guest.guest.write(tss + 0x24, top.to_bytes(8, "little"))
    guest.guest.write(guest.gate_address(1) + 4, b"\x01")
    guest.vmcb.update({"tr.selector": IST_SELECTOR, "tr.base": tss, "tr.limit": 0x67, "tr.attrib": 0x8B})
    guest.vmcb.update({"rsp": top, "dr7": WRITE_8})
    guest.setup(f"mov rax, {top - 8:#x}\nmov dr0, rax")  # what the frame's SS and the PUSH are written to

    exit = guest.run(vmload=True)

    assert exit.ran
    assert l1.guest("end: vmmcall").run().reached("end")
