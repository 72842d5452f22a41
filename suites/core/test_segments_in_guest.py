"""CPL, limits, null segments and bases that VMRUN takes from the VMCB.

The CPL is a field of its own (4CBh), forced to 0 in real mode and to 3 in virtual-8086 mode; limits are byte counts,
fully expanded; P=0 stands for a null segment (APM2 15.5.1, "Segment State in the VMCB"). An L0 that derives the CPL
from selectors or attributes, shifts limits by G once more, or does not look at P, lets L2 do what it may not or
forbids what it may.
"""

import pytest

from harness import VMEXIT, clause

SS_EXIT, GP_EXIT = 0x4C, 0x4D
V86 = {"cr0": 0x31, "rflags": 0x2_0002} | {f"{name}.attrib": 0xF3 for name in ("cs", "ss", "ds", "es")}
DATA32 = 0xC93  # G, B, P, data, writable, accessed
MODES_32 = ["prot32", "paged32", "pae32", "compat32"]


@clause("core.load.cpl")
@pytest.mark.parametrize("cpl", [0, 1, 2, 3])
def test_cpl_in_real_mode(l1, cpl):
    """Real mode is CPL 0 whatever the field says: a privileged instruction runs."""
    guest = l1.guest("mov eax, cr0\nend: vmmcall", mode="real16", vmcb={"cpl": cpl})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=0)


@clause("core.load.cpl")
@pytest.mark.parametrize("cpl", [0, 1, 2, 3])
def test_cpl_in_v86_mode(l1, cpl):
    """Virtual-8086 mode is CPL 3 whatever the field says: a privileged instruction faults."""
    guest = l1.guest("nop\ninsn: clts", mode="real16", vmcb=V86 | {"cpl": cpl})

    assert guest.run().matches(code=GP_EXIT, rip=guest["insn"], info1=0, cpl=3)


@clause("core.load.cpl")
@pytest.mark.parametrize("mode", ["long64", *MODES_32])
@pytest.mark.parametrize("cpl", [1, 2, 3])
def test_cpl_above_the_segments(l1, cpl, mode):
    """RPL and DPL say 0, the field says more: L2 is not privileged."""
    guest = l1.guest("nop\ninsn: clts", mode=mode, vmcb={"cpl": cpl})

    assert guest.run().matches(code=GP_EXIT, rip=guest["insn"], info1=0, cpl=cpl)


@clause("core.load.cpl")
@pytest.mark.parametrize("mode", ["long64", *MODES_32])
def test_cpl_below_the_segments(l1, mode):
    """RPL and DPL say 3, the field says 0: L2 is privileged."""
    guest = l1.guest("mov ebx, 1\nclts\nend: vmmcall", mode=mode, cpl=3, vmcb={"cpl": 0})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=0)


@clause("core.load.limit_is_bytes")
@pytest.mark.parametrize("mode", MODES_32)
@pytest.mark.parametrize("segment", ["ds", "es", "ss"])
@pytest.mark.parametrize("attrib", [0xC93, 0x493], ids=["g", "no-g"])
def test_data_limit(l1, segment, attrib, mode):
    """With a limit of FFFh the byte at FFFh is the last, whether G is set or not."""
    page = l1.scratch(2)
    fields = {f"{segment}.base": page, f"{segment}.limit": 0xFFF, f"{segment}.attrib": attrib}
    guest = l1.guest(f"mov bl, {segment}:[0xFFF]\ninsn: mov bl, {segment}:[0x1000]\nvmmcall", mode=mode, vmcb=fields)

    assert guest.run().matches(code=SS_EXIT if segment == "ss" else GP_EXIT, rip=guest["insn"], info1=0)


@clause("core.load.limit_is_bytes")
@pytest.mark.parametrize("mode", MODES_32)
@pytest.mark.parametrize("segment", ["ds", "es", "ss"])
@pytest.mark.parametrize("attrib", [0xC93, 0x493], ids=["g", "no-g"])
def test_wide_data_limit(l1, segment, attrib, mode):
    """FFFF_FFFFh is 4 GiB, with G clear as well, though no descriptor could say so."""
    address = l1.scratch() + 0x123
    l1.write(address, b"\x5a")
    fields = {f"{segment}.limit": 0xFFFF_FFFF, f"{segment}.attrib": attrib}
    guest = l1.guest(f"mov bl, {segment}:[{address:#x}]\nend: vmmcall", mode=mode, vmcb=fields, regs={"rbx": 0})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0x5A})


@clause("core.load.limit_is_bytes")
@pytest.mark.parametrize("mode", MODES_32)
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_code_limit(l1, where, mode):
    """The limit ends right before an instruction, or right behind it; G is set in both."""
    guest = l1.guest("nop\nend: vmmcall", mode=mode)
    guest.vmcb["cs.limit"] = guest["end"] + (2 if where == "inside" else -1)
    code = VMEXIT.VMMCALL if where == "inside" else GP_EXIT

    assert guest.run().matches(code=code, rip=guest["end"])


@clause("core.load.null_segment")
@pytest.mark.parametrize("mode", MODES_32)
@pytest.mark.parametrize("attrib", [0, DATA32 & ~0x80], ids=["all-clear", "p-clear"])
@pytest.mark.parametrize("segment", ["ds", "es", "fs", "gs"])
def test_null_segment(l1, segment, attrib, mode):
    """Base and limit still look usable; P alone makes it null."""
    page = l1.scratch()
    guest = l1.guest(
        f"nop\ninsn: mov ebx, {segment}:[{page:#x}]\nvmmcall", mode=mode, vmcb={f"{segment}.attrib": attrib}
    )

    exit = guest.run(vmload=segment in ("fs", "gs"))

    assert exit.matches(code=GP_EXIT, rip=guest["insn"], info1=0)


@clause("core.load.null_segment")
@pytest.mark.parametrize("mode", MODES_32)
@pytest.mark.parametrize("segment", ["ds", "es", "fs", "gs"])
def test_present_segment(l1, segment, mode):
    """The legal neighbour: with P set, and a null selector even, the access succeeds."""
    page = l1.scratch()
    l1.write(page, (0x1122_3344).to_bytes(4, "little"))
    fields = {f"{segment}.attrib": DATA32, f"{segment}.selector": 0}
    guest = l1.guest(f"mov ebx, {segment}:[{page:#x}]\nend: vmmcall", mode=mode, vmcb=fields, regs={"rbx": 0})

    exit = guest.run(vmload=segment in ("fs", "gs"))

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0x1122_3344})


@clause("core.load.null_segment")
@pytest.mark.parametrize("segment", ["ds", "es", "fs", "gs"])
def test_null_segment_in_64_bit_mode(l1, segment):
    """64-bit code does not look at P."""
    page = l1.scratch()
    l1.write(page, (0x1122_3344_5566_7788).to_bytes(8, "little"))
    guest = l1.guest(
        f"mov rbx, {segment}:[rdi]\nend: vmmcall", vmcb={f"{segment}.attrib": 0}, regs={"rdi": page, "rbx": 0}
    )

    exit = guest.run(vmload=segment in ("fs", "gs"))

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0x1122_3344_5566_7788})


@clause("core.load.base_is_32_bits")
@pytest.mark.parametrize("high", [1 << 32, 0xFFFF_FFFF << 32, 0x5A5A_5A5A << 32], ids=["one", "ones", "pattern"])
@pytest.mark.parametrize("mode", MODES_32)
@pytest.mark.parametrize("segment", ["ds", "es", "ss"])
def test_high_half_of_base(l1, segment, mode, high):
    """The access is below 4 GiB, at the low half of the base."""
    page = l1.scratch()
    l1.write(page + 0x10, (0x1122_3344).to_bytes(4, "little"))
    guest = l1.guest(
        f"mov ebx, {segment}:[0x10]\nend: vmmcall", mode=mode, vmcb={f"{segment}.base": page | high}, regs={"rbx": 0}
    )

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0x1122_3344})
