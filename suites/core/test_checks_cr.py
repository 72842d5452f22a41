"""VMRUN's checks of the guest's CR0, CR3 and CR4.

Hardware refuses CR0 with CD=0 and NW=1 or with one of bits 63:32 set, CR3 and CR4 with an MBZ bit set, and the
combinations of EFER.LME, CR0.PG, CR0.PE, CR4.PAE, CS.L and CS.D that long mode cannot have (APM2 15.5.1). What MBZ
means follows the CPUID that L1 sees. CR3's reserved bits below its base are not among the MBZ ones: they are ignored.
A wrong L0 looks at 32 bits only, judges by its own CPUID, treats every reserved bit as MBZ, or feeds the values to what
emulates MOV CR, which has other rules and raises #GP.
"""

import pytest

from harness import VMEXIT, clause, unchanged
from suites.lib.beyond_memory import ABOVE_LIMIT, ABOVE_MAXPHYADDR, beyond

CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_NE, CR0_WP, CR0_AM = (1 << n for n in (0, 1, 2, 3, 5, 16, 18))
CR0_NW, CR0_CD, CR0_PG = 1 << 29, 1 << 30, 1 << 31
CR4_PSE, CR4_PAE, CR4_PCIDE, CR4_CET = 1 << 4, 1 << 5, 1 << 17, 1 << 23
CS_L, CS_D = 1 << 9, 1 << 10

UPPER_HALF = [pytest.param(bit, id=f"bit{bit}") for bit in range(32, 64)]
PAGED_MODES = ["long64", "compat32", "pae32", "paged32"]


def _leaf(l1, number, sub, register):
    return l1.cpuid.leaf(number, sub)[("eax", "ebx", "ecx", "edx").index(register)]


# CR4 bits that exist on a CPU that says so: bit -> the CPUID bit (leaf, subleaf, register, bit). Those of Intel are
# here because emulators offer some of them: a CPU that offers a feature may take its bit.
CR4_FEATURES = {
    11: ("UMIP", 7, 0, "ecx", 2),
    12: ("LA57", 7, 0, "ecx", 16),
    16: ("FSGSBASE", 7, 0, "ebx", 0),
    17: ("PCID", 1, 0, "ecx", 17),
    18: ("XSAVE", 1, 0, "ecx", 26),
    20: ("SMEP", 7, 0, "ebx", 7),
    21: ("SMAP", 7, 0, "ebx", 20),
    22: ("PKU", 7, 0, "ecx", 3),
    23: ("CET_SS", 7, 0, "ecx", 7),
    24: ("PKS", 7, 0, "ecx", 31),
    25: ("UINTR", 7, 0, "edx", 5),
    28: ("LAM", 7, 1, "eax", 26),
    32: ("FRED", 7, 1, "eax", 17),
}
CR4_NAMES = {
    0: "VME", 1: "PVI", 2: "TSD", 3: "DE", 4: "PSE", 5: "PAE", 6: "MCE", 7: "PGE", 8: "PCE", 9: "OSFXSR",
    10: "OSXMMEXCPT",
}  # fmt: skip
CR4_NEVER = (13, 14, 15, 19, 26, 27, 29, 30, 31)


def _offered(l1, bit):
    if bit not in CR4_FEATURES:
        return False
    _, leaf, sub, register, number = CR4_FEATURES[bit]
    return bool(_leaf(l1, leaf, sub, register) >> number & 1)


@clause("core.checks.cr0_cd0_nw1")
@pytest.mark.parametrize("mode", ["long64", "pae32", "paged32", "prot32", "real16"])
def test_cr0_nw_without_cd_is_refused(l1, mode):
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["cr0"] |= CR0_NW

    assert guest.run().is_invalid


@clause("core.checks.cr0_cd0_nw1")
@pytest.mark.parametrize("bits", [0, CR0_CD, CR0_CD | CR0_NW], ids=["cd0_nw0", "cd1_nw0", "cd1_nw1"])
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_the_other_cache_controls_run(l1, mode, bits):
    guest = l1.guest("start: vmmcall", mode=mode)
    guest.vmcb["cr0"] |= bits

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cr0_upper")
@pytest.mark.parametrize("bit", UPPER_HALF)
def test_cr0_upper_bit_is_refused(l1, bit):
    guest = l1.guest("vmmcall")
    guest.vmcb["cr0"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.cr0_upper")
@pytest.mark.parametrize("mode", ["pae32", "paged32", "prot32", "real16"])
def test_cr0_upper_bit_is_refused_outside_long_mode(l1, mode):
    """Bit 32 in the modes whose CR0 has but 32 bits."""
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["cr0"] |= 1 << 32

    assert guest.run().is_invalid


@clause("core.checks.cr0_upper")
@pytest.mark.parametrize(
    "bit",
    [CR0_MP, CR0_EM, CR0_TS, CR0_NE, CR0_WP, CR0_AM],
    ids=["mp", "em", "ts", "ne", "wp", "am"],
)
@pytest.mark.parametrize("value", [0, 1], ids=["clear", "set"])
def test_cr0_defined_bits_run(l1, bit, value):
    """The legal neighbours: a bit of the lower half that has a meaning, clear and set."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["cr0"] = guest.vmcb["cr0"] | bit if value else guest.vmcb["cr0"] & ~bit

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cr0_reserved")
@pytest.mark.parametrize("bit", [*range(6, 16), 17, *range(19, 29)], ids=lambda bit: f"bit{bit}")
def test_cr0_reserved_low_bit_is_survived(l1, bit):
    """These bits are not in VMRUN's list: L2 runs on most readings, and no harm is done on any."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["cr0"] |= 1 << bit

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.paged_real_mode")
def test_paged_real_mode_runs(l1):
    """CR0.PG=1 with PE=0 is what MOV CR0 refuses and VMRUN takes while EFER.LME=0 (APM2 15.19)."""
    guest = l1.guest("start: vmmcall", mode="real16")
    paged = l1.vmcb_image("paged32")
    guest.vmcb["cr0"] |= CR0_PG
    guest.vmcb["cr3"] = paged["cr3"]
    guest.vmcb["cr4"] |= CR4_PSE

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"], cr0=unchanged, cpl=0)


@clause("core.checks.paged_real_mode")
def test_paged_real_mode_translates(l1):
    """Paging is on: a page that is not present gives #PF, which the guest's real-mode neighbour does not get."""
    guest = l1.guest("mov bx, 0x4000\nstart: mov al, [bx]\nvmmcall", mode="real16")
    guest.vmcb["cr0"] |= CR0_PG
    tables = l1.scratch(2)
    identity = b"".join((page << 12 | 7).to_bytes(4, "little") for page in range(1024))
    target = (guest.vmcb["ds.base"] + 0x4000) >> 12
    identity = identity[: target * 4] + bytes(4) + identity[target * 4 + 4 :]
    guest.write(tables, (tables + 0x1000 | 7).to_bytes(4, "little"))
    guest.write(tables + 0x1000, identity)
    guest.vmcb["cr3"] = tables

    exit = guest.run()

    assert exit.matches(code=VMEXIT.EXCP_PF, rip=guest["start"], info2=target << 12)


@clause("core.checks.long_mode_without_pe")
def test_long_mode_without_pe_is_refused(l1):
    guest = l1.guest("vmmcall")
    guest.vmcb["cr0"] &= ~CR0_PE

    assert guest.run().is_invalid


@clause("core.checks.long_mode_without_pae")
@pytest.mark.parametrize("mode", ["long64", "compat32"])
def test_long_mode_without_pae_is_refused(l1, mode):
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["cr4"] &= ~CR4_PAE

    assert guest.run().is_invalid


@clause("core.checks.long_mode_without_pe", "core.checks.long_mode_without_pae")
@pytest.mark.dirties("an L0 that is confused about the mode may reload L1's state wrongly")
def test_lme_without_paging_runs(l1):
    """The legal neighbour: EFER.LME=1 with CR0.PG=0 is protected mode, so neither PAE nor anything else is asked."""
    guest = l1.guest("start: vmmcall", mode="prot32")
    guest.vmcb["efer"] |= 1 << 8

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.long_mode_without_pe")
@pytest.mark.dirties("an L0 that is confused about the mode may reload L1's state wrongly")
def test_lme_in_real_mode_runs(l1):
    """The legal neighbour with PE=0: EFER.LME=1 and CR0.PG=0 is real mode."""
    guest = l1.guest("start: vmmcall", mode="real16")
    guest.vmcb["efer"] |= 1 << 8

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cs_l_and_d")
@pytest.mark.parametrize("mode", ["long64", "compat32"])
def test_cs_with_l_and_d_is_refused_in_long_mode(l1, mode):
    """CS.D added to a 64-bit segment, CS.L added to a 32-bit one."""
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["cs.attrib"] |= CS_L | CS_D

    assert guest.run().is_invalid


@clause("core.checks.cs_l_and_d")
@pytest.mark.parametrize("bits", [CS_L, CS_D, 0], ids=["l", "d", "neither"])
def test_one_of_cs_l_and_d_runs_in_long_mode(l1, bits):
    """The legal neighbours: 64-bit, 32-bit and 16-bit segments. VMMCALL is the same in all three."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["cs.attrib"] = guest.vmcb["cs.attrib"] & ~(CS_L | CS_D) | bits
    if not bits:  # 16-bit code: IP counts from the segment's base
        guest.vmcb["cs.base"], guest.vmcb["rip"] = guest["start"], 0

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"] if bits else 0)


@clause("core.checks.cs_l_and_d_outside_long_mode")
@pytest.mark.parametrize("mode", ["prot32", "pae32", "paged32"])
def test_cs_with_l_and_d_outside_long_mode_is_survived(l1, mode):
    """By the APM's list this is no illegal combination; no hardware record is known."""
    guest = l1.guest("start: vmmcall", mode=mode)
    guest.vmcb["cs.attrib"] |= CS_L | CS_D

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cr3_upper")
@pytest.mark.parametrize("bit", ABOVE_LIMIT)
@pytest.mark.parametrize("mode", ["long64", "compat32"])
def test_cr3_bit_above_52_is_refused_in_long_mode(l1, mode, bit):
    """No physical address has these bits, whatever MAXPHYADDR says."""
    guest = l1.guest("vmmcall", mode=mode)
    if bit in (61, 62) and _offered(l1, 28):
        pytest.skip("linear address masking is offered (Fn0000_0007_x1 EAX[26]): CR3[62:61] may have a meaning")
    guest.vmcb["cr3"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.cr3_upper")
@pytest.mark.parametrize("above", ABOVE_MAXPHYADDR)
def test_cr3_bit_beyond_maxphyaddr_is_refused_in_long_mode(l1, above):
    guest = l1.guest("vmmcall")
    guest.vmcb["cr3"] |= 1 << beyond(l1, above)

    assert guest.run().is_invalid


@clause("core.checks.cr3_low_ignored")
@pytest.mark.parametrize(
    ("mode", "bit"),
    [
        *(pytest.param("long64", bit, id=f"long64-bit{bit}") for bit in range(12)),
        *(pytest.param("compat32", bit, id=f"compat32-bit{bit}") for bit in (0, 2, 5, 11)),
        *(pytest.param("pae32", bit, id=f"pae32-bit{bit}") for bit in range(5)),
        *(pytest.param("paged32", bit, id=f"paged32-bit{bit}") for bit in range(12)),
    ],
)
def test_cr3_low_bit_is_ignored(l1, mode, bit):
    """Reserved bits below the base are not MBZ, bits 3 and 4 are cache controls: the map is the same and L2 runs."""
    guest = l1.guest("start: vmmcall", mode=mode)
    guest.vmcb["cr3"] |= 1 << bit  # the tables are page-aligned, so it was 0

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cr3_pcid")
@pytest.mark.parametrize("pcid", [*(1 << bit for bit in range(12)), 0, 0xFFF], ids=lambda pcid: f"pcid{pcid:03x}")
def test_every_pcid_bit_is_legal(l1, pcid):
    guest = l1.guest("start: vmmcall")
    guest.vmcb["cr4"] |= CR4_PCIDE
    guest.vmcb["cr3"] |= pcid

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cr3_upper_outside_long_mode")
@pytest.mark.parametrize("bit", [32, 52, 63], ids=lambda bit: f"bit{bit}")
@pytest.mark.parametrize("mode", ["pae32", "paged32", "prot32", "real16"])
def test_cr3_upper_bit_outside_long_mode_is_survived(l1, mode, bit):
    """Refused, or cut off to 32 bits. An L0 that uses the bit would fetch from nowhere."""
    guest = l1.guest("start: vmmcall", mode=mode)
    guest.vmcb["cr3"] |= 1 << bit

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cr4_upper")
@pytest.mark.parametrize("bit", UPPER_HALF)
def test_cr4_upper_bit_is_refused(l1, bit):
    guest = l1.guest("vmmcall")
    if _offered(l1, bit):
        pytest.skip(f"CR4 bit {bit} is {CR4_FEATURES[bit][0]}'s and CPUID offers it")
    guest.vmcb["cr4"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.cr4_reserved")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("bit", CR4_NEVER, ids=lambda bit: f"bit{bit}")
def test_cr4_bit_that_no_feature_has_is_refused(l1, bit, mode):
    """Bit 13 is VMXE on other CPUs and means nothing here."""
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["cr4"] |= 1 << bit

    assert guest.run().is_invalid


@clause("core.checks.cr4_reserved")
@pytest.mark.parametrize(
    "bit", [pytest.param(bit, id=feature[0].lower()) for bit, feature in CR4_FEATURES.items() if bit < 32]
)
def test_cr4_bit_of_a_feature_that_is_not_offered_is_refused(l1, bit):
    """L1's CPUID decides, not that of the machine underneath."""
    guest = l1.guest("vmmcall", mode="long64" if bit == 17 else "prot32")
    if _offered(l1, bit):
        pytest.skip(f"CPUID offers {CR4_FEATURES[bit][0]}")
    guest.vmcb["cr4"] |= 1 << bit
    guest.vmcb["cr0"] |= CR0_WP

    assert guest.run().is_invalid


@clause("core.checks.cr4_reserved")
@pytest.mark.parametrize(
    "bit",
    [
        *(pytest.param(bit, id=name.lower()) for bit, name in CR4_NAMES.items()),
        *(pytest.param(bit, id=feature[0].lower()) for bit, feature in CR4_FEATURES.items() if bit < 24),
    ],
)
def test_cr4_bit_that_is_offered_runs(l1, bit):
    """The legal neighbours, in protected mode without paging, where no CR4 bit changes VMMCALL; PCIDE in long mode."""
    guest = l1.guest("start: vmmcall", mode="long64" if bit == 17 else "prot32")
    if bit in CR4_FEATURES and not _offered(l1, bit):
        pytest.skip(f"CPUID does not offer {CR4_FEATURES[bit][0]}")
    if bit in (0, 1) and not _leaf(l1, 1, 0, "edx") >> 1 & 1:
        pytest.skip("CPUID does not offer VME")
    guest.vmcb["cr4"] |= 1 << bit
    guest.vmcb["cr0"] |= CR0_WP

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.pcide_without_long_mode")
@pytest.mark.parametrize("mode", ["pae32", "prot32"])
def test_pcide_outside_long_mode_is_survived(l1, mode):
    """MOV CR4 refuses it; VMRUN's list does not name it."""
    guest = l1.guest("start: vmmcall", mode=mode)
    guest.vmcb["cr4"] |= CR4_PCIDE

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.cet_without_wp")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
def test_cet_without_wp_is_refused(l1, mode):
    guest = l1.guest("vmmcall", mode=mode)
    guest.vmcb["cr4"] |= CR4_CET
    guest.vmcb["cr0"] &= ~CR0_WP

    assert guest.run().is_invalid


@clause("core.checks.cet_without_wp")
@pytest.mark.parametrize(("cr4", "cr0"), [(CR4_CET, CR0_WP), (0, 0), (0, CR0_WP)], ids=["cet_wp", "neither", "wp"])
def test_cet_with_wp_runs(l1, cr4, cr0):
    guest = l1.guest("start: vmmcall")
    guest.vmcb["cr4"] |= cr4
    guest.vmcb["cr0"] = guest.vmcb["cr0"] & ~CR0_WP | cr0

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.s_cet_reserved")
@pytest.mark.parametrize("bits", [range(6, 10), range(12, 32), range(32, 64)], ids=["9_6", "31_12", "63_32"])
def test_s_cet_reserved_bit_is_refused(l1, bits):
    """Each bit alone. 1:0 have a meaning; 5:2, 10 and 11 have one with indirect branch tracking and are left out."""
    guest = l1.guest("vmmcall")
    guest.vmcb["cr4"] |= CR4_CET
    guest.vmcb["cr0"] |= CR0_WP
    good = guest.vmcb.copy()
    for bit in bits:
        guest.rewind()
        guest.vmcb = good.copy()
        guest.vmcb["s_cet"] = 1 << bit
        exit = guest.run()
        assert exit.is_invalid, f"S_CET bit {bit}"


@clause("core.checks.s_cet_reserved")
@pytest.mark.parametrize("bits", [0, 1, 3], ids=["none", "sh_stk_en", "wr_shstk_en"])
def test_s_cet_defined_bits_are_accepted(l1, bits):
    """The legal neighbours. L2 keeps a page for its shadow stack and calls nothing."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["cr4"] |= CR4_CET
    guest.vmcb["cr0"] |= CR0_WP
    guest.vmcb.update({"s_cet": bits, "ssp": l1.scratch(1) + 0x800})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])
