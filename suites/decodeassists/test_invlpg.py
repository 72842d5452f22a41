"""The address of an intercepted INVLPG.

With DecodeAssists EXITINFO1 is the linear address: base, index, displacement, cut to the address size, and then the
segment's base (APM2 15.8.3). An L1 that shadows L2's tables drops the page at that address. A wrong L0 forgets FS, the
scale, a cut or the sign of a displacement, and L2 goes on with a translation that it has taken away.
"""

import pytest

from harness import VMEXIT, cases, clause

HIGH = 0xFFFF_8000_0123_4567  # canonical
FS, GS = 0xFFFF_9000_0000_0000, 0x7000_0000
REGS = {
    "rax": 0x11_2233_4455, "rcx": 0x10_0030, "rdx": 0x0123_4567_89AB_CDE0, "rbx": HIGH, "rbp": 0x2_0000_0040,
    "rsi": 0x77_0000_0007, "rdi": 0x66_0000_0006, "r8": 0x8888_8888, "r12": 0x1212_0000_1212, "r13": 0x1313_1313_1313,
    "r15": (1 << 64) - 0x20,
}  # fmt: skip
ALL_ONES = (1 << 64) - 1

# Text, and the address; the segments ES, CS, SS and DS have bases, which 64-bit mode does not use.
LONG = {
    "base": ("[rbx]", HIGH),
    "base_rax": ("[rax]", REGS["rax"]),
    "base_r12": ("[r12]", REGS["r12"]),
    "base_r13": ("[r13]", REGS["r13"]),
    "base_rbp": ("[rbp]", REGS["rbp"]),
    "disp8": ("[rbx + 0x7f]", HIGH + 0x7F),
    "disp8_negative": ("[rbx - 0x80]", HIGH - 0x80),
    "disp32": ("[rbx + 0x7fffffff]", HIGH + 0x7FFF_FFFF),
    "disp32_negative": ("[r8 - 0x8000000]", REGS["r8"] - 0x800_0000),
    "index1": ("[rbx + rcx]", HIGH + 0x10_0030),
    "index2": ("[rbx + rcx * 2]", HIGH + 0x20_0060),
    "index4": ("[rbx + rcx * 4 + 5]", HIGH + 0x40_00C0 + 5),
    "index8": ("[rbx + rcx * 8 - 0x12345678]", HIGH + 0x80_0180 - 0x1234_5678),
    "index_r15": ("[rax + r15 * 8]", REGS["rax"] - 0x100),
    "index_r12": ("[rcx + r12 * 2]", 0x10_0030 + 2 * REGS["r12"]),
    "index_without_base": ("[r8 * 4 + 0x10]", 4 * REGS["r8"] + 0x10),
    "index_without_base_negative": ("[rcx * 1 - 0x400000]", 0x10_0030 - 0x40_0000 & ALL_ONES),
    "absolute": ("ds:[0x12345678]", 0x1234_5678),
    "absolute_negative": ("ds:[-0x1000]", ALL_ONES - 0xFFF),
    "ds_override": ("ds:[rbp + 8]", REGS["rbp"] + 8),
    "cs_override": ("cs:[rbx]", HIGH),
    "fs": ("fs:[rax]", FS + REGS["rax"]),
    "fs_disp32": ("fs:[0x40]", FS + 0x40),
    "gs_sib": ("gs:[rcx + rcx * 4 + 0x100]", GS + 5 * 0x10_0030 + 0x100),
    "gs_wraps": ("gs:[r15]", GS - 0x20),
    "addr32": ("[ebx]", HIGH & 0xFFFF_FFFF),
    "addr32_sum_cut": ("[edx + ecx * 8]", 0x89AB_CDE0 + 0x80_0180),
    "addr32_wraps": ("[r15d + 0x30]", 0x10),
    "addr32_fs": ("fs:[esi + edi]", FS + 13),
}


@clause("decodeassists.invlpg.address")
@cases("text, address", LONG)
def test_long_mode(l1, text, address):
    guest = l1.guest(f"nop\nstart: invlpg {text}\nvmmcall", intercept=["invlpg"], regs=REGS)
    bases = {"fs.base": FS, "gs.base": GS} | dict.fromkeys(["es.base", "ss.base", "ds.base"], 0x5555_0000)
    guest.vmcb.update(bases)

    exit = guest.run(vmload=True)

    assert exit.matches(code=VMEXIT.INVLPG, rip=guest["start"], info1=address)


@clause("decodeassists.invlpg.address")
@cases("prefix, base", {"rip": ("", 0), "eip": ("0x67, ", 0), "fs_rip": ("0x64, ", FS)})
def test_relative_to_rip(l1, prefix, base):
    """RIP is that of the next instruction."""
    guest = l1.guest(
        f"nop\nstart: .byte {prefix}0x0f, 0x01, 0x3d\n.long -0x765432\nnext: vmmcall", intercept=["invlpg"]
    )
    guest.vmcb["fs.base"] = FS

    exit = guest.run(vmload=True)

    assert exit.matches(code=VMEXIT.INVLPG, rip=guest["start"], info1=guest["next"] - 0x76_5432 + base)


BASES = {"ds.base": 0x10_0000, "ss.base": 0x20_0000, "es.base": 0x30_0000, "fs.base": 0x40_0000, "gs.base": 0x50_0000}
SMALL = {
    "rax": 0xA000, "rcx": 0x1_0003, "rdx": 0xD, "rbx": 0x55_B000, "rbp": 0x2_1000, "rsi": 0x33_0051, "rdi": 0x44_0D1D,
}  # fmt: skip
# Text, the segment whose base is added, and the offset.
PROTECTED = {
    "ds": ("[ebx]", "ds", 0x55_B000),
    "ds_sib": ("[eax + ecx * 4 - 1]", "ds", 0xA000 + 0x4_000C - 1),
    "ss_by_ebp": ("[ebp + 4]", "ss", 0x2_1004),
    "ss_by_esp": ("[esp + 8]", "ss", None),
    "es_override": ("es:[ebp + esi]", "es", 0x35_1051),
    "fs": ("fs:[ecx]", "fs", 0x1_0003),
    "gs": ("gs:[edi * 2]", "gs", 2 * 0x44_0D1D),
    "cs_override": ("cs:[edx]", "cs", 0xD),
    "absolute": ("ds:[0x12345678]", "ds", 0x1234_5678),
    "offset_wraps": ("[ebx - 0x60000000]", "ds", 0x55_B000 - 0x6000_0000),
    "addr16": ("[bx + si]", "ds", 0xB000 + 0x51),
    "addr16_wraps": ("[bx + di + 0x7000]", "ds", (0xB000 + 0x0D1D + 0x7000) & 0xFFFF),
    "addr16_ss": ("[bp + di - 1]", "ss", 0x1000 + 0x0D1D - 1),
}


@clause("decodeassists.invlpg.address")
@cases("text, segment, offset", PROTECTED)
@pytest.mark.parametrize("mode", ["compat32", "prot32"])
def test_segment_bases(l1, mode, text, segment, offset):
    """The sum has 32 bits."""
    guest = l1.guest(f"nop\nstart: invlpg {text}\nvmmcall", mode=mode, intercept=["invlpg"], regs=SMALL)
    guest.vmcb.update(BASES)
    if offset is None:
        offset = guest.vmcb["rsp"] + 8

    exit = guest.run(vmload=True)

    base = BASES.get(f"{segment}.base", 0)
    assert exit.matches(code=VMEXIT.INVLPG, rip=guest["start"], info1=base + offset & 0xFFFF_FFFF)


REAL = {
    "bx_si": ("[bx + si]", "ds", 0xB051),
    "bp_disp8": ("[bp - 2]", "ss", 0x0FFE),
    "bp_di": ("[bp + di + 0x1234]", "ss", 0x1000 + 0x0D1D + 0x1234),
    "wraps": ("[bx + 0x7fff]", "ds", 0x2FFF),
    "es_override": ("es:[di]", "es", 0x0D1D),
    "fs": ("fs:[si]", "fs", 0x51),
    "absolute": ("ds:[0x9abc]", "ds", 0x9ABC),
    "addr32": ("[edx + edx * 2]", "ds", 0x27),
}
REAL_SEGMENTS = {"ds": 0x3100, "ss": 0x4200, "es": 0x5300, "fs": 0x6400}


@clause("decodeassists.invlpg.address")
@cases("text, segment, offset", REAL)
def test_real_mode(l1, text, segment, offset):
    guest = l1.guest(f"nop\nstart: invlpg {text}\nvmmcall", mode="real16", intercept=["invlpg"], regs=SMALL)
    for name, selector in REAL_SEGMENTS.items():
        guest.vmcb.update({f"{name}.selector": selector, f"{name}.base": selector << 4})

    exit = guest.run(vmload=True)

    address = (REAL_SEGMENTS[segment] << 4) + offset
    assert exit.matches(code=VMEXIT.INVLPG, rip=guest["start"], info1=address)


@clause("decodeassists.invlpg.address")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_next_exit_has_its_own_address(l1, mode):
    """Two in a row, and no page of theirs is mapped or touched."""
    base = "rbx" if mode == "long64" else "ebx"
    guest = l1.guest(f"first: invlpg [{base}]\nsecond: invlpg [{base} + 4]\nvmmcall", mode=mode, intercept=["invlpg"])
    guest.regs["rbx"] = 0x7654_3210

    first = guest.run()
    second = guest.resume("second")

    assert first.matches(code=VMEXIT.INVLPG, info1=0x7654_3210)
    assert second.matches(code=VMEXIT.INVLPG, rip=guest["second"], info1=0x7654_3214)
