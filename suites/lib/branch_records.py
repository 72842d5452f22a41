"""Last branch records (APM2 13.1.6): the five registers, code that reads them, and an L1 that has records of its own.

Code that reads or writes them here has no branch, so it records nothing itself. Only bits 56:0 of an address are ever
compared: the upper ones differ from one processor to the next.
"""

import struct
from dataclasses import dataclass

import pytest

from harness import UD, Exit, masked
from harness.svm.msr import MSR

# By the VMCB's names. An "interrupt" of the registers' other name, LastInt, is any interrupt or exception but #DB.
REGISTERS = {
    "dbgctl": MSR.DEBUGCTL,
    "br_from": MSR.BR_FROM,
    "br_to": MSR.BR_TO,
    "last_excp_from": MSR.LAST_EXCP_FROM,
    "last_excp_to": MSR.LAST_EXCP_TO,
}
ADDRESSES = tuple(name for name in REGISTERS if name != "dbgctl")
LBR, BTF = 1, 2
ADDRESS_BITS = (1 << 57) - 1
ALL_EXCEPTIONS = [f"exc_{vector}" for vector in range(32)]

PRESET = {
    "br_from": 0x0000_1ABC_0123_4561,
    "br_to": 0x0000_2BCD_1234_5672,
    "last_excp_from": 0x0000_3CDE_2345_6783,
    "last_excp_to": 0x0000_4DEF_3456_7894,
}
RECORDING = {"lbr_virt_enable": 1, "dbgctl": LBR} | PRESET
"""VMCB fields of an L2 with records of its own, which has DEBUGCTL.LBR set: `l1.guest(code, vmcb=RECORDING)`.

Without `dbgctl` that field has the fill of the output fields, A5h, which sets LBR and reserved bits.
"""

_SIZE = 8 * len(REGISTERS)


def address(value):
    """What a record must be, in the bits that are the same on all processors."""
    return masked(value, ADDRESS_BITS)


def addresses(values):
    """The same for several, by name."""
    return {name: address(value) for name, value in values.items()}


PRESET_KEPT = addresses(PRESET)
"""`exit.matches(fields=PRESET_KEPT)`: nothing was recorded."""


def branch(source, target):
    """A branch from `source` to `target` was recorded, and no event."""
    return PRESET_KEPT | addresses({"br_from": source, "br_to": target})


def event(source, target, before):
    """An event was recorded, and in LastInt the branch `before` it, as a pair."""
    names = ("br_from", "br_to", "last_excp_from", "last_excp_to")
    return addresses(dict(zip(names, (source, target, *before), strict=True)))


def set_debugctl(value):
    """WRMSR of DEBUGCTL, without a label. EAX, ECX and EDX are used."""
    return f"mov ecx, {MSR.DEBUGCTL:#x}\nmov eax, {value:#x}\nxor edx, edx\nwrmsr\n"


def store_records(page):
    """Reads the five registers into memory at `page`, below 4 GiB. EAX, ECX and EDX are used."""
    code = ""
    for n, msr in enumerate(REGISTERS.values()):
        low = page + 8 * n
        code += f"mov ecx, {msr:#x}\nrdmsr\nmov dword ptr ds:[{low:#x}], eax\nmov dword ptr ds:[{low + 4:#x}], edx\n"
    return code


def stored(page):
    """For `read=` of a run: where `store_records(page)` puts them."""
    return (page, _SIZE)


def records(data):
    """What was stored, by name."""
    return dict(zip(REGISTERS, struct.unpack(f"<{len(REGISTERS)}Q", data), strict=True))


def are(l1, whose, got, wanted):
    """True if the records `got` are those `wanted`, by name; else the first that is not."""
    for name, value in wanted.items():
        match = l1.expect(f"{whose} {REGISTERS[name].name} (MSR {REGISTERS[name]:X}h)", got[name], value)
        if not match:
            break
    return match


def same_as(before):
    """What records must be that nobody was to change."""
    return {name: value if name == "dbgctl" else address(value) for name, value in before.items()}


def lbr_stays(l1):
    """Whether L1 can set DEBUGCTL.LBR, as RDMSR says."""
    result = l1.code(f"{set_debugctl(LBR)}rdmsr\nmov ebx, eax\n{set_debugctl(0)}")
    return result.fault is None and bool(result.reg("rbx") & LBR)


def need_branch_records(l1):
    """Skips the test where DEBUGCTL.LBR does not stay set in L1. No CPUID bit speaks of branch records."""
    if not lbr_stays(l1):
        pytest.skip("MSR 1D9h (DEBUGCTL) bit 0 (LBR) does not stay set in L1: this machine records no branches")


@dataclass(frozen=True)
class Between:
    """A VMRUN between two readings of L1's records."""

    exit: Exit
    before: dict[str, int]
    after: dict[str, int]


# The labels are those of the code that `between` runs: a branch, an event, and the last branch.
_OWN = """
first: jmp first_to
nop
first_to: ud2
last: jmp last_to
nop
last_to:
"""
_SKIP_UD2 = {UD: "add qword ptr [rsp], 2"}


def between(l1, guest, *, debugctl=0, then="", read=None):
    """VMRUN from L1 code with records of its own, read without a branch right before VMRUN and right after #VMEXIT.

    `debugctl` is L1's at VMRUN; `then` is L1 code right behind VMRUN, before the second reading. RCX and RDX are not
    the guest's.
    """
    need_branch_records(l1)
    page = l1.scratch()
    exit = guest.run_in(
        f"clgi\n{set_debugctl(LBR)}{_OWN}{set_debugctl(debugctl)}{store_records(page)}mov eax, {guest.vmcb_pa:#x}\n"
        f"vmrun\n{then}{store_records(page + _SIZE)}{set_debugctl(0)}stgi",
        handlers=_SKIP_UD2,
        read={"before": stored(page), "after": stored(page + _SIZE)} | (read or {}),
    )
    return Between(exit, records(exit.memory["before"]), records(exit.memory["after"]))


def own_records(exit):
    """What L1's records must be before VMRUN in `between`."""
    return event(exit.l1["last"], exit.l1["last_to"], (exit.l1["first"], exit.l1["first_to"]))
