"""DEBUGCTL as such, and who may touch the five registers.

The bits that a processor does not have are dropped when VMRUN loads 670h, which never makes VMRUN fail, and are
dropped or refused when WRMSR writes them (APM2 13.1.1.6). The MSR permissions map covers the five registers as any
other (15.11), and comes before what RDMSR or WRMSR would raise. An L0 that refuses a VMCB for such a bit, or lets L2
past the map because these registers are virtualized, breaks L1.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked, unchanged
from harness.svm.msr import msrpm
from suites.lib.branch_records import (
    LBR,
    PRESET_KEPT,
    RECORDING,
    REGISTERS,
    are,
    between,
    own_records,
    set_debugctl,
)
from suites.lib.event_guest import EventGuest

ALL = (1 << 64) - 1
MAYBE = 0x183F  # LBR, BTF, bus-lock trap or PB0, PB1 to PB3, and two bits of the performance counters
BUS_LOCK_TRAP = 1 << 2
READ_DEBUGCTL = "mov ecx, 0x1d9\nrdmsr\nshl rdx, 32\nor rax, rdx\nmov rbx, rax\nend: vmmcall"


@clause("lbrvirt.reserved_bits_dropped")
@pytest.mark.parametrize("bit", [*range(13), 13, 31, 32, 62, 63], ids=lambda bit: f"bit{bit}")
def test_each_bit_of_the_vmcb(l1, bit):
    """VMRUN succeeds; what is nobody's reads 0 in L2, and is 0 after the exit."""
    guest = l1.guest(READ_DEBUGCTL, vmcb=RECORDING | {"dbgctl": 1 << bit})

    exit = guest.run()

    keeps = masked(LBR & 1 << bit, ALL & ~(1 << bit & MAYBE & ~LBR))
    assert exit.reached("end", dbgctl=keeps, regs={"rbx": keeps}, fields=PRESET_KEPT)


@clause("lbrvirt.reserved_bits_dropped")
def test_all_bits_of_the_vmcb(l1):
    """FFFF_FFFF_FFFF_FFFFh; bit 0 is there on every processor."""
    guest = l1.guest(READ_DEBUGCTL, vmcb=RECORDING | {"dbgctl": ALL})

    exit = guest.run()

    keeps = masked(LBR, ALL & ~MAYBE | LBR)
    assert exit.reached("end", dbgctl=keeps, regs={"rbx": keeps})


@clause("lbrvirt.wrmsr_reserved")
@pytest.mark.parametrize("bit", [2, 3, 4, 5, 7, 8, 9, 10, 13, 31, 32, 63], ids=lambda bit: f"bit{bit}")
def test_wrmsr_of_other_bits(l1, bit):
    """#GP, or the bit is dropped, or it is kept where it may exist; nothing else."""
    low, high = (1 << bit) & 0xFFFF_FFFF, 1 << bit >> 32
    code = f"mov ecx, 0x1d9\nmov eax, {low:#x}\nmov edx, {high:#x}\nwrite: wrmsr\nrdmsr\nmov ebx, eax\nmov esi, edx\n"
    guest = l1.guest(f"{code}{set_debugctl(0)}end: vmmcall")

    exit = guest.run()

    if exit.code == VMEXIT.EXCP_GP:
        assert exit.matches(rip=guest["write"], info1=0)
    else:
        assert exit.reached("end", regs={"rbx": any_of(0, low & MAYBE), "rsi": 0})


@clause("lbrvirt.wrmsr_bit6")
def test_wrmsr_of_bit_6(l1):
    """Must be zero in every edition of the manual."""
    guest = l1.guest(f"mov ecx, 0x1d9\nmov eax, 0x40\nxor edx, edx\nwrite: wrmsr\n{set_debugctl(0)}end: vmmcall")

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["write"], info1=0)


# The MSR permissions map

KINDS = pytest.mark.parametrize("kind", ["read", "write"])
NAMES = pytest.mark.parametrize("name", REGISTERS)


def mapped(l1, name, kind, intercepted):
    """A guest that reads or writes the register, under a map in which `intercepted`, "read" or "write", is set."""
    msr, insn = REGISTERS[name], {"read": "rdmsr", "write": "wrmsr"}[kind]
    guest = l1.guest(f"mov ecx, {msr:#x}\nxor eax, eax\nxor edx, edx\nstart: {insn}\nend: vmmcall", intercept=["msr"])
    base = l1.scratch(2)
    guest.write(base, msrpm((msr,), ()) if intercepted == "read" else msrpm((), (msr,)))
    guest.vmcb["msrpm_base_pa"] = base
    return guest


@clause("lbrvirt.msr_map")
@KINDS
@NAMES
def test_map_intercepts(l1, name, kind):
    """Exit 7Ch, before any #GP that the access would raise."""
    guest = mapped(l1, name, kind, kind)

    assert guest.run().matches(code=VMEXIT.MSR, rip=guest["start"], info1=int(kind == "write"))


@clause("lbrvirt.msr_map")
@KINDS
@NAMES
def test_map_intercepts_with_lbr_virtualization(l1, name, kind):
    """0B8h[0]=1 does not open the registers, which an L0 may then leave to L2."""
    guest = mapped(l1, name, kind, kind)
    guest.vmcb.update(RECORDING)

    assert guest.run().matches(code=VMEXIT.MSR, rip=guest["start"], info1=int(kind == "write"))


@clause("lbrvirt.msr_map")
@KINDS
@NAMES
def test_other_direction_is_not_intercepted(l1, name, kind):
    """The near miss. A write of a record may raise #GP."""
    guest = mapped(l1, name, kind, "write" if kind == "read" else "read")

    assert guest.run().matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.EXCP_GP))


@clause("lbrvirt.l1_restored")
@pytest.mark.parametrize("name", REGISTERS)
def test_what_l2_writes_does_not_reach_l1(l1, name):
    """WRMSR of each register in L2; where it raises #GP, L2's handler goes on."""
    code = f"mov ecx, {REGISTERS[name]:#x}\nmov eax, 1\nxor edx, edx\nwrmsr\nother: nop\nend: vmmcall"
    guest = EventGuest(l1, code, handlers={}, no_intercept=["#GP"], vmcb=RECORDING | {"dbgctl": 0})

    ran = between(l1, guest.guest)

    assert ran.exit.reached("end")
    assert are(l1, "after #VMEXIT, L1's", ran.after, {"dbgctl": 0} | own_records(ran.exit))


# The bus-lock trap


@clause("lbrvirt.bus_lock_trap")
@pytest.mark.parametrize("own", [0, BUS_LOCK_TRAP], ids=["l1_off", "l1_on"])
@pytest.mark.parametrize("dbgctl", [0, BUS_LOCK_TRAP], ids=["l2_off", "l2_on"])
def test_bus_lock_trap(l1, dbgctl, own):
    """Of L2's own bit 2, not L1's: #DB behind a bus lock at CPL 3, with DR6[11] clear."""
    guest = EventGuest(
        l1, "lock inc dword ptr [rbx]\nbehind: nop\nend: vmmcall", cpl=3, regs={"rbx": l1.scratch() + 0x3E},
        vmcb=RECORDING | {"dbgctl": dbgctl, "dr6": 0xFFFF_0FF0},
    )  # fmt: skip
    guest.setup(set_debugctl(own))
    guest.guest.teardown(set_debugctl(0))

    exit = guest.run()

    if dbgctl:
        assert exit.matches(code=VMEXIT.EXCP_DB, rip=guest["behind"], dr6=masked(0, 1 << 11))
    else:
        assert exit.reached("end", dr6=unchanged)
