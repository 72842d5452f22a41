"""CVE-2021-3656 and CVE-2026-43133: VMLOAD and VMSAVE in L2, which L1 does not intercept.

Hardware without virtual VMLOAD and VMSAVE lets them go to the physical address in rAX, here one of L1's, and they load
and store the one copy of FS, GS, TR, LDTR and the MSRs that L1 and L2 share (APM2 15.5.2, 15.33.1).

CVE-2021-3656: KVM before 5.14 left both to the CPU if L1 did, so that rAX was an address of the host's: L2 read and
wrote host memory. core.preconditions.address_without_memory_in_l2 and later_bits.vmload ask for the address.
CVE-2026-43133: KVM from 5.13 (to 6.1.164, 6.6.127, 6.12.74, 6.18.15) emulates them, but on the wrong VMCB: L2's VMSAVE
stored old values, and what its VMLOAD loaded was lost at the next #VMEXIT.
"""

from harness import cases, clause

# Field of the VMCB -> (offset, MSR, L1's value, another one)
SHARED = {
    "kernel_gs_base": (0x620, 0xC000_0102, 0x0000_7EDC_BA98_7654, 0xFFFF_8123_4567_89AB),
    "star": (0x600, 0xC000_0081, 0x0023_0010_1234_5678, 0x0033_0020_8765_4321),
    "lstar": (0x608, 0xC000_0082, 0xFFFF_A234_5678_9ABC, 0x0000_5234_5678_9ABC),
    "cstar": (0x610, 0xC000_0083, 0x0000_7234_5678_9ABC, 0xFFFF_9234_5678_9ABC),
    "sfmask": (0x618, 0xC000_0084, 0x0004_7700, 0x0000_0300),
    "sysenter_cs": (0x628, 0x174, 0x1234, 0x5678),
    "fs.base": (0x448, 0xC000_0100, 0x0000_1234_5678_9ABC, 0xFFFF_C234_5678_9ABC),
    "gs.base": (0x458, 0xC000_0101, 0xFFFF_8765_4321_0FED, 0x0000_2765_4321_0FED),
}
EACH = [(name, False) for name in SHARED] + [("kernel_gs_base", True), ("lstar", True)]
PART = {"sysenter_cs": 0xFFFF}  # what an AMD CPU must keep
MASK = (1 << 64) - 1
OWN_STATE = "mov rax, r8\nvmsave"
GIVE_BACK = "mov rax, r8\nvmload\nmov ecx, 0x174\nxor eax, eax\nxor edx, edx\nwrmsr"


def _write(msr, value):
    return f"mov ecx, {msr:#x}\nmov eax, {value & 0xFFFF_FFFF:#x}\nmov edx, {value >> 32:#x}\nwrmsr"


def _guest(l1, code, setup, *, np):
    """R8 and R9 are pages of L1's: its own state, and the operand of L2's instruction."""
    if np:
        l1.need("NP", "!VmsaveVirt")
    pages = l1.scratch(2)
    regs = {"r8": pages, "r9": pages + 0x1000}
    guest = l1.guest(code, np=np, no_intercept=["vmload", "vmsave"], vmcb={"rax": pages + 0x1000})
    guest.setup(f"{OWN_STATE}\n{setup}", regs)
    guest.teardown(GIVE_BACK, regs)
    return guest, pages + 0x1000


@clause("advisories.vmsave_in_l2")
@cases("name, np", EACH)
def test_vmsave_stores_what_l1_and_l2_share(l1, name, np):
    """L1 wrote the value right before VMRUN; the VMCB has another one, which counts for nothing."""
    offset, msr, value, decoy = SHARED[name]
    guest, page = _guest(l1, "vmsave\nend: vmmcall", _write(msr, value), np=np)
    guest.vmcb[name] = decoy

    exit = guest.run(read={"field": (page + offset, 8)})

    mask = PART.get(name, MASK)
    assert exit.reached("end")
    assert l1.expect(f"{name} as L2 stored it", int.from_bytes(exit.memory["field"], "little") & mask, value & mask)


@clause("advisories.vmload_in_l2")
@cases("name, np", EACH)
def test_vmload_loads_what_l1_and_l2_share(l1, name, np):
    """L2 reads the MSR, and L1 finds the value by VMSAVE after the exit."""
    offset, msr, value, decoy = SHARED[name]
    size = "ecx" if name == "sysenter_cs" else "rcx"
    put = f"mov rax, r9\nvmsave\nmovabs rcx, {value:#x}\nmov [r9 + {offset:#x}], {size}"
    guest, _ = _guest(l1, f"vmload\nmov ecx, {msr:#x}\nrdmsr\nend: vmmcall", put, np=np)
    guest.vmcb[name] = decoy

    exit = guest.run(vmsave=True)

    mask = PART.get(name, MASK)
    assert exit.reached("end")
    assert l1.expect(f"{name} as L2 reads it", exit.msr & mask, value & mask)
    assert l1.expect(f"{name} as L1 stores it", exit.vmcb[name] & mask, value & mask)
