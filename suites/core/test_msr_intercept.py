"""Which MSR accesses exit: the MSR permissions map.

Two bits for each MSR of three ranges, one for RDMSR and one for WRMSR; what lies outside the ranges exits always; CPL
is checked before, whatever is special to an MSR after (APM2 15.11). L0 runs L2 with a map of its own, in which bits of
L1's must be merged: one that forgets a range, or lets through what it lets L1 have, hands L2 MSRs that L1 keeps from
it; one that shows L1 an exit it did not ask for breaks L1.
"""

import pytest

from harness import VMEXIT, any_of, clause, unchanged
from harness.svm.msr import MSR, msrpm_position

LOW, HIGH = 0x5566_7788, 0x1122_3344
MAP_SIZE = 0x2000


def _guest(l1, code, msr=None, bits=(), *, fill=0, np=False, intercept=("msr",), **options):
    """A guest with a map of `fill` bytes in which `bits`, pairs of (MSR, "read" or "write"), are inverted."""
    guest = l1.guest(f"nop\nstart: {code}\nend: vmmcall", np=np, intercept=intercept, **options)
    guest.regs.setdefault("rdx", HIGH)
    if msr is not None:
        guest.regs.setdefault("rcx", msr)
    guest.vmcb["rax"] = guest.regs.get("rax", LOW)
    base = l1.scratch(2)
    if fill:
        l1.fill(base, MAP_SIZE, fill)
    content = {}
    for number, kind in bits:
        byte, at = msrpm_position(number)
        content[byte] = content.get(byte, fill) ^ 1 << at + (kind == "write")
    for byte, value in content.items():
        guest.write(base + byte, bytes([value]))
    guest.vmcb["msrpm_base_pa"] = base
    return guest


def _exits(l1, guest, kind, msr=None):
    exit = guest.run()
    same = dict.fromkeys(("rcx", "rdx", "rbx"), unchanged)
    assert exit.matches(code=VMEXIT.MSR, rip=guest["start"], info1=int(kind == "write"), rax=unchanged, regs=same)
    if kind == "write" and msr is not None:
        name = f"MSR_{msr:08X}"
        assert l1.expect(f"{name} was written all the same", name in exit.host_changes, False)


CODE = {"read": "rdmsr", "write": "wrmsr"}
KINDS = pytest.mark.parametrize("kind", ["read", "write"])

# Those that an L0 shares with L2 or lets through, some of each range, and x2APIC's.
MSRS = {
    "TSC": 0x10, "APIC_BASE": 0x1B, "SPEC_CTRL": 0x48, "SYSENTER_CS": 0x174, "PAT": 0x277, "X2APIC_ID": 0x802,
    "X2APIC_ICR": 0x830, "EFER": 0xC000_0080, "LSTAR": 0xC000_0082, "FS_BASE": 0xC000_0100, "GS_BASE": 0xC000_0101,
    "KERNEL_GS_BASE": 0xC000_0102, "TSC_AUX": 0xC000_0103, "VM_CR": 0xC001_0114, "VM_HSAVE_PA": 0xC001_0117,
}  # fmt: skip


@clause("core.msr_intercept.read_write")
@KINDS
@pytest.mark.parametrize("name", MSRS)
def test_bit_intercepts(l1, name, kind):
    """One bit of the map is set."""
    msr = MSRS[name]

    _exits(l1, _guest(l1, CODE[kind], msr, [(msr, kind)]), kind, msr)


@clause("core.msr_intercept.read_write")
@KINDS
@pytest.mark.parametrize("mode", ["long64-np", "compat32", "pae32", "prot32", "real16"])
def test_bit_intercepts_in_other_modes(l1, mode, kind):
    np = mode.endswith("-np")
    if np:
        l1.need("NP")
    guest = _guest(l1, CODE[kind], MSR.LSTAR, [(MSR.LSTAR, kind)], mode=mode.removesuffix("-np"), np=np)

    _exits(l1, guest, kind, MSR.LSTAR)


# MSRs that are there everywhere, with a value that may be written.
WRITABLE = {
    "SYSENTER_CS": (0x174, 0x10),
    "LSTAR": (0xC000_0082, 0x1234_5678_9ABC),
    "FS_BASE": (0xC000_0100, 0x1234_5678_9ABC),
    "KERNEL_GS_BASE": (0xC000_0102, 0xFFFF_F234_5678_9ABC),
}


@clause("core.msr_intercept.direction")
@KINDS
@pytest.mark.parametrize("name", WRITABLE)
def test_bit_of_the_other_direction(l1, name, kind):
    """The near miss."""
    msr, value = WRITABLE[name]
    registers = {"rax": value & 0xFFFF_FFFF, "rdx": value >> 32}
    guest = _guest(l1, CODE[kind], msr, [(msr, "read" if kind == "write" else "write")], regs=registers)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


ENDS = [0, 0x1FFF, 0xC000_0000, 0xC000_1FFF, 0xC001_0000, 0xC001_1FFF]


@clause("core.msr_intercept.ranges")
@KINDS
@pytest.mark.parametrize("msr", ENDS, ids=lambda msr: f"{msr:08x}")
def test_ends_of_the_ranges(l1, msr, kind):
    """The first and the last MSR of each range, by its own bit alone."""
    _exits(l1, _guest(l1, CODE[kind], msr, [(msr, kind)]), kind)


@clause("core.msr_intercept.ranges")
@pytest.mark.parametrize("msr", ENDS, ids=lambda msr: f"{msr:08x}")
def test_all_bits_but_the_own_one(l1, msr):
    """The near miss: the MSR is read, or raises #GP because there is no such MSR; it is not intercepted."""
    guest = _guest(l1, "rdmsr", msr, [(msr, "read")], fill=0xFF)

    assert guest.run().matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.EXCP_GP))


@clause("core.msr_intercept.ranges")
@KINDS
@pytest.mark.parametrize("name", WRITABLE)
def test_access_in_a_full_map(l1, name, kind):
    """The near miss for MSRs that are there: a clear bit among set ones lets the access through."""
    msr, value = WRITABLE[name]
    registers = {"rax": value & 0xFFFF_FFFF, "rdx": value >> 32}
    guest = _guest(l1, CODE[kind], msr, [(msr, kind)], fill=0xFF, regs=registers)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.msr_intercept.ranges")
@pytest.mark.parametrize("name", ["SYSENTER_CS", "LSTAR"])
def test_reserved_quarter_is_not_looked_at(l1, name):
    guest = _guest(l1, "rdmsr", WRITABLE[name][0])
    l1.fill(guest.vmcb["msrpm_base_pa"] + 0x1800, 0x800, 0xFF)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


OUTSIDE = [0x2000, 0x4000_0000, 0xC000_2000, 0xC000_FFFF, 0xC001_2000, 0xFFFF_FFFF]


@clause("core.msr_intercept.outside")
@KINDS
@pytest.mark.parametrize("msr", OUTSIDE, ids=lambda msr: f"{msr:08x}")
def test_msr_outside_the_map(l1, msr, kind):
    """The map is all zeros."""
    _exits(l1, _guest(l1, CODE[kind], msr), kind)


@clause("core.msr_intercept.off")
@KINDS
@pytest.mark.parametrize("name", ["SYSENTER_CS", "LSTAR"])
def test_map_is_ignored_without_the_intercept(l1, name, kind):
    """Every bit is set."""
    msr, value = WRITABLE[name]
    registers = {"rax": value & 0xFFFF_FFFF, "rdx": value >> 32}
    guest = _guest(l1, CODE[kind], msr, fill=0xFF, intercept=(), regs=registers)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.msr_intercept.off")
@pytest.mark.parametrize("msr", [0x2000, 0xC000_2000, 0xFFFF_FFFF], ids=lambda msr: f"{msr:08x}")
def test_msr_outside_the_map_without_the_intercept(l1, msr):
    """#GP as on a bare machine, unless the L0 has such an MSR."""
    guest = _guest(l1, "rdmsr", msr, fill=0xFF, intercept=())

    assert guest.run().matches(code=any_of(VMEXIT.EXCP_GP, VMEXIT.VMMCALL))


@clause("core.msr_intercept.cpl_first")
@KINDS
@pytest.mark.parametrize(("mode", "cpl"), [("long64", 3), ("prot32", 1)])
@pytest.mark.parametrize("msr", [MSR.SYSENTER_CS, 0x4000_0000], ids=["in_map", "outside"])
def test_less_privileged_code_faults(l1, msr, mode, cpl, kind):
    guest = _guest(l1, CODE[kind], msr, fill=0xFF, mode=mode, cpl=cpl)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0, rax=unchanged)


ILLEGAL = {
    "read_unimplemented": (0x1234, "read", 0),
    "write_unimplemented": (0x1234, "write", 0),
    "efer_reserved": (0xC000_0080, "write", (1 << 64) - 1),
    "lstar_not_canonical": (0xC000_0082, "write", 1 << 63),
    "kernel_gs_not_canonical": (0xC000_0102, "write", 0x8000_0000_0000),
    "pat_bad_type": (0x277, "write", 0x0202_0202_0202_0202),
    "mtrrcap_read_only": (0xFE, "write", 0),
    "hsave_unaligned": (0xC001_0117, "write", 1),
    "vm_cr_reserved": (0xC001_0114, "write", 1 << 63),
}


@clause("core.msr_intercept.before_msr_checks")
@pytest.mark.parametrize("name", ILLEGAL)
def test_intercept_comes_before_the_msrs_own_checks(l1, name):
    msr, kind, value = ILLEGAL[name]
    registers = {"rax": value & 0xFFFF_FFFF, "rdx": value >> 32}

    _exits(l1, _guest(l1, CODE[kind], msr, [(msr, kind)], regs=registers), kind)


@clause("core.msr_intercept.ecx_only")
@pytest.mark.parametrize("high", [0xDEAD_0000, 0xFFFF_FFFF, 1], ids=["dead0000", "ffffffff", "00000001"])
@pytest.mark.parametrize("msr", [0x174, 0xC000_0082], ids=["SYSENTER_CS", "LSTAR"])
def test_upper_half_of_rcx(l1, msr, high):
    guest = _guest(l1, "rdmsr", msr, [(msr, "read")], regs={"rcx": high << 32 | msr})

    _exits(l1, guest, "read")


@clause("core.msr_intercept.ecx_only")
@pytest.mark.parametrize("msr", [0x174, 0xC000_0082], ids=["SYSENTER_CS", "LSTAR"])
def test_upper_half_of_rcx_without_the_bit(l1, msr):
    """The near miss: it is read, and nothing else is looked at."""
    guest = _guest(l1, "rdmsr", msr, [(msr, "read")], fill=0xFF, regs={"rcx": 0xDEAD_0000 << 32 | msr})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.msr_intercept.map_changed")
@KINDS
@pytest.mark.parametrize("order", [[False, True, False], [True, False, True]], ids=["clear_set_clear", "set_clear_set"])
def test_map_changed_between_runs(l1, order, kind):
    """L1 writes the byte in its map and does VMRUN again, with the same VMCB."""
    guest = _guest(l1, CODE[kind], 0x174, regs={"rax": 0x10, "rdx": 0})
    byte, bit = msrpm_position(0x174)
    for intercepted in order:
        l1.write(guest.vmcb["msrpm_base_pa"] + byte, bytes([intercepted << bit + (kind == "write")]))
        guest.vmcb.update({"rip": guest["start"], "rax": 0x10})
        exit = guest.run()
        if intercepted:
            assert exit.matches(code=VMEXIT.MSR, rip=guest["start"], info1=int(kind == "write"))
        else:
            assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])


USERS_OF_MSRS = {
    "rdtsc": ("rdtsc", "TSC", 0),
    "rdtscp": ("rdtscp", "RDTSCP", 0),
    "swapgs": ("swapgs", "LM", 0),
    "wrfsbase": ("wrfsbase rbx", "FSGSBASE", 1 << 16),
    "rdgsbase": ("rdgsbase rbx", "FSGSBASE", 1 << 16),
    "mov_cr8": ("mov rbx, cr8", "LM", 0),
}


@clause("core.msr_intercept.only_rdmsr_wrmsr")
@pytest.mark.parametrize("name", USERS_OF_MSRS)
def test_other_instructions_do_not_look_at_the_map(l1, name):
    """Every bit is set."""
    code, feature, cr4 = USERS_OF_MSRS[name]
    l1.need(feature)
    guest = _guest(l1, code, fill=0xFF, regs={"rbx": 0x1234_5678})
    guest.vmcb["cr4"] |= cr4

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])
