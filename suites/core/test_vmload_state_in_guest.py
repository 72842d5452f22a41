"""FS, GS, TR, LDTR and the MSRs of VMLOAD: not VMRUN's business.

VMRUN does not load them and #VMEXIT does not save them; L2 runs with what L1 last loaded, and L1 finds what L2 left
(APM2 15.5.1, 15.5.2). An L0 that swaps whole VMCBs, or does a VMLOAD of L1's VMCB for L1, takes the fields of the
VMCB instead, or writes them.
"""

import pytest

from harness import VMEXIT, clause, masked, unchanged, write_msr

READ_MSR = "rdmsr\nshl rdx, 32\nmov ebx, eax\nor rbx, rdx"

# Field -> (offset in the VMCB, width, L2 code that brings it to RBX, L1's value, the decoy in the VMCB)
LOW, HIGH = 0x0000_7EDC_BA98_7654, 0xFFFF_8123_4567_89AB
STATE = {
    "fs.selector": (0x440, 2, "mov ebx, fs", 0x5678, 0x0010),
    "gs.selector": (0x450, 2, "mov ebx, gs", 0x9ABC, 0x0010),
    "ldtr.selector": (0x470, 2, "sldt rbx", 0x0058, 0x1230),
    "fs.base": (0x448, 8, f"mov ecx, 0xC0000100\n{READ_MSR}", LOW, HIGH),
    "gs.base": (0x458, 8, f"mov ecx, 0xC0000101\n{READ_MSR}", HIGH, LOW),
    "kernel_gs_base": (0x620, 8, f"mov ecx, 0xC0000102\n{READ_MSR}", LOW, HIGH),
    "star": (0x600, 8, f"mov ecx, 0xC0000081\n{READ_MSR}", 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210),
    "lstar": (0x608, 8, f"mov ecx, 0xC0000082\n{READ_MSR}", HIGH, LOW),
    "cstar": (0x610, 8, f"mov ecx, 0xC0000083\n{READ_MSR}", LOW, HIGH),
    "sfmask": (0x618, 8, f"mov ecx, 0xC0000084\n{READ_MSR}", 0x0004_7700, 0x0000_0CD5),
    "sysenter_cs": (0x628, 8, f"mov ecx, 0x174\n{READ_MSR}", 0x5678, 0x0008),
    "sysenter_esp": (0x630, 8, f"mov ecx, 0x175\n{READ_MSR}", 0x1234_5678, 0x7EDC_BA98),
    "sysenter_eip": (0x638, 8, f"mov ecx, 0x176\n{READ_MSR}", 0x7EDC_BA98, 0x1234_5678),
}
SIZE = {2: "cx", 8: "rcx"}
DECOYS = {name: decoy for name, (_, _, _, _, decoy) in STATE.items()}

# Gives L1 the state above: R8 is a page for its own, R9 one to build the other in. TR stays, the executor needs it.
LOAD_L1 = "mov rax, r8\nvmsave\nmov rsi, r8\nmov rdi, r9\nmov ecx, 512\nrep movsq\n" + "".join(
    f"movabs rcx, {value:#x}\nmov [r9 + {offset:#x}], {SIZE[width]}\n" for offset, width, _, value, _ in STATE.values()
)
LOAD_L1 += "mov rax, r9\nvmload\n"
RESTORE_L1 = "mov rax, r8\nvmload\n"
# An L0 whose VMLOAD leaves these out would leave a test's values to the next one. L1's own are zero.
RESTORE_L1 += "".join(f"mov ecx, {msr:#x}\nxor eax, eax\nxor edx, edx\nwrmsr\n" for msr in (0x174, 0x175, 0x176))

# Selectors cannot be loaded without descriptors; everything that is an MSR can be written by L2.
MSRS = {
    "fs.base": 0xC000_0100,
    "gs.base": 0xC000_0101,
    "kernel_gs_base": 0xC000_0102,
    "star": 0xC000_0081,
    "lstar": 0xC000_0082,
    "cstar": 0xC000_0083,
    "sfmask": 0xC000_0084,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
}
HALF = {"sysenter_cs": 0xFFFF, "sysenter_esp": 0xFFFF_FFFF, "sysenter_eip": 0xFFFF_FFFF}  # what an AMD part must keep


def with_l1_state(l1, code, **options):
    """A guest for which L1 loads the state above before VMRUN and takes its own back afterwards."""
    pages = l1.scratch(2)
    regs = {"r8": pages, "r9": pages + 0x1000}
    guest = l1.guest(f"{code}\nend: vmmcall", **options)
    guest.setup(LOAD_L1, regs)
    guest.teardown(RESTORE_L1, regs)
    return guest


@clause("core.load.vmload_state_is_l1s")
@pytest.mark.parametrize("name", STATE)
def test_guest_sees_l1s_value(l1, name):
    """Every one of these fields in the VMCB is a decoy."""
    _, _, code, value, _ = STATE[name]
    guest = with_l1_state(l1, code, vmcb=DECOYS, regs={"rbx": 0})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": value})


@clause("core.load.vmload_state_is_l1s")
def test_guest_sees_l1s_task_register(l1):
    """STR in L2 stores the selector that L1 loaded at boot."""
    tr = l1.host_state()["TR"]
    decoy = 0x1230
    guest = l1.guest("str rbx\nend: vmmcall", vmcb={"tr.selector": decoy}, regs={"rbx": 0})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": tr}, fields={"tr.selector": decoy})


@clause("core.load.vmload_state_is_l1s")
@pytest.mark.parametrize("segment", ["fs", "gs"])
def test_guest_uses_l1s_base(l1, segment):
    """A data access goes to L1's base, not to the VMCB's."""
    pages = l1.scratch(2)
    l1.write(pages + 8, (0x1122_3344_5566_7788).to_bytes(8, "little"))
    l1.write(pages + 0x1008, (0xBAD0_BAD0_BAD0_BAD0).to_bytes(8, "little"))
    msr = MSRS[f"{segment}.base"]
    guest = l1.guest(f"mov edi, 8\nmov rbx, {segment}:[rdi]\nend: vmmcall", vmcb={f"{segment}.base": pages + 0x1000})
    guest.setup(f"mov ecx, {msr:#x}\nmov eax, {pages:#x}\nxor edx, edx\nwrmsr")
    guest.teardown(f"mov ecx, {msr:#x}\nxor eax, eax\nxor edx, edx\nwrmsr")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0x1122_3344_5566_7788})


@clause("core.load.vmload_state_is_l1s")
@pytest.mark.parametrize(
    "name",
    [*STATE, "tr.selector", "tr.attrib", "tr.limit", "tr.base", "fs.attrib", "fs.limit", "gs.attrib", "ldtr.base"],
)
def test_exit_leaves_the_decoy(l1, name):
    """#VMEXIT has no business with the field, though L2's state differs from it."""
    decoys = DECOYS | {"tr.selector": 0x1230, "tr.attrib": 0x08B, "tr.limit": 0x789, "tr.base": LOW, "ldtr.base": HIGH}
    decoys |= {"fs.attrib": 0xCF3, "fs.limit": 0x1_2345, "gs.attrib": 0xCF3}
    guest = with_l1_state(l1, "nop", vmcb=decoys)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields={name: unchanged})


@clause("core.load.vmload_state_comes_back")
@pytest.mark.parametrize("name", MSRS)
def test_vmsave_stores_what_the_guest_wrote(l1, name):
    """VMSAVE right after #VMEXIT finds L2's value."""
    value = STATE[name][4]
    code = f"mov ecx, {MSRS[name]:#x}\nmov eax, {value & 0xFFFF_FFFF:#x}\nmov edx, {value >> 32:#x}\nwrmsr"
    guest = with_l1_state(l1, code)

    exit = guest.run(vmsave=True)

    mask = HALF.get(name, (1 << 64) - 1)
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields={name: masked(value, mask)})


@clause("core.load.vmload_state_comes_back")
@pytest.mark.parametrize("name", MSRS)
def test_vmload_gives_the_guest_its_value(l1, name):
    """The other way round: VMLOAD of the VMCB before VMRUN is how L1 hands these to L2. L1 has others before."""
    _, _, code, own, value = STATE[name]
    guest = with_l1_state(l1, code, vmcb=DECOYS, regs={"rbx": 0})
    guest.setup(write_msr(MSRS[name], own))

    exit = guest.run(vmload=True, vmsave=True)

    mask = HALF.get(name, (1 << 64) - 1)
    assert exit.matches(
        code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": masked(value, mask)}, fields={name: masked(value, mask)}
    )
