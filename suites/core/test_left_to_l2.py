"""What L1 leaves to L2 is L1's.

Where L1 does not intercept CPUID, an MSR or a port, L2 uses the processor that L1 has: it reads what L1 reads, and L1
finds what L2 wrote (APM2 15.10, 15.11, 15.25.8: MTRRs are not duplicated). An L0 that emulates the access for L2 may
answer from the real processor behind it, and L2 sees a machine that L1 does not have; or from a copy, and the write is
lost. Within one run each access is judged by its own bit, whatever L0 did for the one before.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause, masked, read_msr, write_msr
from harness.svm.msr import iopm, msrpm

OSXSAVE, OSPKE = 1 << 27, 1 << 4  # these follow the CR4 of whoever asks
LEAVES = {
    "max": (0, 0), "features": (1, 0), "mwait": (5, 0), "power": (6, 0), "extended": (7, 0), "topology": (0xB, 0),
    "xsave": (0xD, 0), "xsave_1": (0xD, 1), "beyond": (0x1234_5678, 0), "hypervisor": (0x4000_0000, 0),
    "hypervisor_1": (0x4000_0001, 0), "hypervisor_100": (0x4000_0100, 0), "ext_max": (0x8000_0000, 0),
    "ext_features": (0x8000_0001, 0), "name": (0x8000_0002, 0), "cache": (0x8000_0006, 0), "size": (0x8000_0008, 0),
    "svm": (0x8000_000A, 0), "memory_encryption": (0x8000_001F, 0), "ext_features_2": (0x8000_0021, 0),
    "ext_beyond": (0x8FFF_FFFF, 0),
}  # fmt: skip


@clause("core.left.cpuid")
@cases("leaf, subleaf", LEAVES)
def test_cpuid(l1, leaf, subleaf):
    """All four registers, the bits apart that follow CR4."""
    eax, ebx, ecx, edx = l1.cpuid_now(leaf, subleaf)
    guest = l1.guest(f"mov eax, {leaf:#x}\nmov ecx, {subleaf}\ncpuid\nend: vmmcall")
    mine = {1: OSXSAVE, 7: OSPKE}.get(leaf, 0)

    expected = {"rbx": ebx, "rcx": masked(ecx & ~mine, 0xFFFF_FFFF & ~mine), "rdx": edx}
    assert guest.run().reached("end", rax=eax, regs=expected)


MSRS = {
    "mcg_cap": 0x179, "mtrrcap": 0xFE, "mtrr_base0": 0x200, "mtrr_mask0": 0x201, "mtrr_fix64k": 0x250,
    "mtrr_deftype": 0x2FF, "patch_level": 0x8B, "apic_base": 0x1B, "debugctl": 0x1D9, "tsc_aux": 0xC000_0103,
    "syscfg": 0xC001_0010, "hwcr": 0xC001_0015, "top_mem": 0xC001_001A, "nb_cfg": 0xC001_001F, "perf_ctr0": 0xC001_0004,
    "none": 0xC001_1FFF, "none_low": 0x1FFF,
}  # fmt: skip


@clause("core.left.msr_read")
@cases("msr", MSRS)
def test_msr_reads_as_in_l1(l1, msr):
    """A value, or #GP where L1 has #GP too."""
    own = l1.rdmsr(msr)
    guest = l1.guest(read_msr(msr), intercept=["msr"])

    exit = guest.run()

    if own.ok:
        assert exit.reached("done")
        assert l1.expect("what L2 reads", exit.msr, own.value)
    else:
        assert exit.matches(code=VMEXIT.EXCP_GP, rip=guest["read"], info1=0)


@clause("core.left.mtrr")
def test_mtrr_that_l2_writes(l1):
    """The base of the last variable range, which is off (mask 0)."""
    l1.need("MTRR")
    count = l1.rdmsr(0xFE).value & 0xFF
    if not count:
        pytest.skip("MTRRCAP (MSR FEh) has no variable ranges")
    base, mask = 0x200 + 2 * (count - 1), 0x201 + 2 * (count - 1)
    before = l1.rdmsr(base).value
    if l1.rdmsr(mask).value >> 11 & 1:
        pytest.skip("the last variable MTRR is in use")
    written = 0x0800_0000 if before != 0x0800_0000 else 0x1000_0000
    guest = l1.guest(write_msr(base, written) + "rdmsr\nend: vmmcall", intercept=["msr"])

    exit = guest.run()
    after = l1.rdmsr(base)
    assert l1.wrmsr(base, before).ok

    assert exit.reached("end", rax=written)
    assert after.reads(written)


PORTS = {"com1_scratch": (0x3FF, 1), "com2_scratch": (0x2FF, 1), "dma_page": (0x84, 1), "pci_address": (0xCF8, 4)}
REGISTER = {1: "al", 4: "eax"}


def _holds(l1, port, size):
    """Skips where the port does not give back what is written."""
    register = REGISTER[size]
    for value in (0x8000_0A58, 0x8000_0DA4):
        code = f"mov edx, {port}\nmov eax, {value:#x}\nout dx, {register}\nxor eax, eax\nin {register}, dx"
        got = l1.code(code).reg("rax") & (1 << 8 * size) - 1
        if got != value & (1 << 8 * size) - 1:
            pytest.skip(f"port {port:X}h does not hold what is written to it")


@clause("core.left.port")
@cases("port, size", PORTS)
@cases("intercept", {"off": [], "map_clear": ["ioio"]})
def test_port_that_holds_a_value(l1, intercept, port, size):
    """L2 reads what L1 wrote, and L1 then reads what L2 wrote."""
    _holds(l1, port, size)
    register, mask = REGISTER[size], (1 << 8 * size) - 1
    theirs, ours = 0x8000_0A58 & mask, 0x8000_0DA4 & mask
    read = f"mov edx, {port}\nxor eax, eax\nin {register}, dx\n"
    write = f"mov edx, {port}\nmov eax, {{:#x}}\nout dx, {register}\n"
    guest = l1.guest(f"{read}mov ebx, eax\n{write.format(theirs)}end: vmmcall", intercept=intercept)
    guest.setup(write.format(ours))
    guest.teardown(read)

    exit = guest.run()

    assert exit.reached("end", regs={"rbx": ours})
    assert l1.expect("what L1 reads", exit.teardown.reg("rax"), theirs)


# A free access, one that is caught, and again a free one.
TURNS = {
    "dr_read": ("mov rax, dr0", "mov rax, dr1", ["dr1_read"], VMEXIT.DR1_READ),
    "dr_write": ("mov dr0, rbx", "mov dr1, rbx", ["dr1_write"], VMEXIT.DR1_WRITE),
    "dr_direction": ("mov rax, dr2", "mov dr2, rbx", ["dr2_write"], VMEXIT.DR2_WRITE),
    "cr8": ("mov rax, cr8", "mov cr8, rbx", ["cr8_write"], VMEXIT.CR8_WRITE),
    "cr4": ("mov rax, cr4", "mov cr4, rax", ["cr4_write"], VMEXIT.CR4_WRITE),
    "io": ("in al, 0xe0", "in al, 0xe1", ["ioio"], VMEXIT.IOIO),
    "io_direction": ("in al, 0xe0", "out 0xe1, al", ["ioio"], VMEXIT.IOIO),
    "msr": ("mov ecx, 0xc0000081\nrdmsr", "mov ecx, 0xc0000082\nrdmsr", ["msr"], VMEXIT.MSR),
    "msr_direction": ("mov ecx, 0xc0000083\nrdmsr", "mov ecx, 0xc0000083\nwrmsr", ["msr"], VMEXIT.MSR),
}


@clause("core.left.one_run")
@cases("free, caught, own, exitcode", TURNS)
def test_free_access_and_intercepted_one(l1, free, caught, own, exitcode):
    """In one run; L1 then steps over the second, and a free one follows."""
    lines = caught.split("\n")
    start = "\n".join([*lines[:-1], f"start: {lines[-1]}"])
    guest = l1.guest(f"{free}\n{start}\nthen: {free}\nend: vmmcall", intercept=own)
    maps = l1.scratch(5)
    guest.write(maps, iopm((0xE1,)))
    guest.write(maps + 0x3000, msrpm((0xC000_0082,), (0xC000_0083,)))
    guest.vmcb.update({"iopm_base_pa": maps, "msrpm_base_pa": maps + 0x3000})
    guest.regs["rbx"] = 0

    first = guest.run()
    second = guest.resume("then")

    assert first.matches(code=exitcode, rip=guest["start"])
    assert second.reached("end")


@clause("core.left.map_written_by_l2")
def test_l2_writes_to_its_own_io_map(l1):
    """Whether it counts in the same run is open; in the next VMRUN, with its clean bits clear, it does."""
    maps = l1.scratch(3)
    guest = l1.guest("mov byte ptr [rdi], 0xff\nat: in al, 0xe0\nend: vmmcall", intercept=["ioio"])
    guest.regs["rdi"] = maps + 0xE0 // 8
    guest.vmcb["iopm_base_pa"] = maps

    first = guest.run()
    second = guest.resume("at")

    rip = guest["at"] if first.code == VMEXIT.IOIO else guest["end"]
    assert first.matches(code=any_of(VMEXIT.IOIO, VMEXIT.VMMCALL), rip=rip)
    assert second.matches(code=VMEXIT.IOIO, rip=guest["at"])


@clause("core.left.tsc_write")
def test_l2_writes_the_tsc(l1):
    """The value that it has just read, so that nobody's time is harmed. L2 comes to its end."""
    guest = l1.guest("mov ecx, 0x10\nrdmsr\nat: wrmsr\nrdtsc\nend: vmmcall", intercept=["msr"])

    exit = guest.run()

    assert exit.matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.EXCP_GP))
