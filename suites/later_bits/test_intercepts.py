"""Intercepts that came later: Idle HLT (CPUID Fn8000_000A EDX bit 30) and bus locks (bit 29); SVME_ADDR_CHK (bit 28).

The Idle HLT intercept ends L2 at a HLT with no virtual interrupt or NMI pending, and the HLT intercept goes before it
(APM2 15.9); the bus lock threshold ends L2 before a bus lock when the counter at 120h is zero, and counts down
otherwise (15.14.5). Where a bit is not offered 014h[6:5] and 120h have no effect. With bit 28 the intercept of VMRUN,
VMLOAD and VMSAVE is asked before the operand is held against address ranges of L0's own. A wrong L0 lets L2 halt L1's
processor for good, or gives L2 a #GP for an address that is L1's affair.
"""

import pytest

from harness import VMEXIT, cases, clause
from suites.lib.interrupts import interruptible

VECTOR = 0x61
HALT_US = 3000


@clause("later_bits.idle_hlt.exit", "later_bits.idle_hlt.absent")
@pytest.mark.parametrize("rflags", [2, 0x202], ids=["if0", "if1"])
def test_hlt_with_nothing_pending(l1, rflags):
    """Without the feature L2 is halted, until L1's interrupt ends it."""
    guest = l1.guest("nop\nstart: hlt\nnext: vmmcall", intercept=["idle_hlt"], vmcb={"rflags": rflags})

    exit = guest.run(watchdog_us=HALT_US)

    if l1.cpuid.has("IdleHltIntercept"):
        assert exit.matches(code=VMEXIT.IDLE_HLT, rip=guest["start"])
    else:
        assert exit.is_invalid or exit.matches(code=VMEXIT.INTR, rip=guest["next"])


@clause("later_bits.idle_hlt.pending", "later_bits.idle_hlt.absent")
def test_hlt_with_an_interrupt_pending(l1):
    """STI's shadow lets the HLT be executed; the virtual interrupt then wakes L2."""
    vmcb = {"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": VECTOR, "rflags": 2}
    guest = interruptible(l1, "sti\nhlt\nnop\nvmmcall", [VECTOR], intercept=["idle_hlt"], vmcb=vmcb)

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["handled"])


@clause("later_bits.idle_hlt.priority", "later_bits.idle_hlt.absent")
def test_hlt_intercept_goes_first(l1):
    guest = l1.guest("nop\nstart: hlt\nvmmcall", intercept=["idle_hlt", "hlt"])

    assert guest.run().matches(code=VMEXIT.HLT, rip=guest["start"])


@clause("later_bits.bus_lock.exit", "later_bits.bus_lock.absent")
@cases("count", [0, 1, 2, 0xFFFF])
def test_bus_lock(l1, count):
    """A locked increment across two cache lines."""
    page = l1.scratch(1)
    code = "start: lock inc dword ptr [rbx]\nend: vmmcall"
    guest = l1.guest(code, intercept=["buslock"], regs={"rbx": page + 0x3E}, vmcb={"bus_lock_count": count})

    exit = guest.run(read={"operand": (page + 0x3E, 4)})

    done = int.from_bytes(exit.memory["operand"], "little")
    if not l1.cpuid.has("BusLockThreshold"):
        assert exit.is_invalid or exit.reached("end", bus_lock_count=count)
    elif count:
        assert exit.reached("end", bus_lock_count=count - 1)
        assert l1.expect("the operand", done, 1, width_bytes=4)
    else:
        assert exit.matches(code=VMEXIT.BUSLOCK, rip=guest["start"], info1=0, info2=0, bus_lock_count=0)
        assert l1.expect("the operand", done, 0, width_bytes=4)


ADDRESSES = {
    "local_apic": lambda l1, guest: 0xFEE0_0000,
    "below_4g": lambda l1, guest: 0xFFFF_F000,
    "top": lambda l1, guest: (1 << l1.cpuid.maxphyaddr) - 0x1000,
    "hsave": lambda l1, guest: l1.rdmsr(0xC001_0117).value,
    "own_vmcb": lambda l1, guest: guest.vmcb_pa,
}


@clause("later_bits.address_check.intercept_first")
@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("insn", ["vmrun", "vmload", "vmsave"])
def test_operand_in_a_range_of_the_hosts(l1, insn, address):
    """Aligned and below MAXPHYADDR, so that it is legal for L1; whether anything lies there is not asked."""
    guest = l1.guest(f"nop\nstart: {insn}\nvmmcall", intercept=[insn])
    guest.vmcb["rax"] = ADDRESSES[address](l1, guest)

    assert guest.run().matches(code=VMEXIT[insn.upper()], rip=guest["start"])
