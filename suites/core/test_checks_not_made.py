"""What VMRUN does not check.

Hardware takes a RIP that is not canonical or lies beyond CS's limit (L2's first fetch then faults inside L2), makes
segment bases canonical instead of refusing them, takes segment attributes that no descriptor could give, and takes the
privilege level from VMCB.CPL alone, whatever CS and SS say; in real mode it is 0 and in virtual-8086 mode 3 (APM2
15.5.1).
A wrong L0 applies the rules of another virtualization architecture, or lets a value through that its own software page
walker or emulator trusts.
"""

import pytest

from harness import VMEXIT, clause, unchanged

NOT_CANONICAL = {"bit63": 1 << 63, "bit47": 1 << 47, "ffff7": 0xFFFF_7FFF_FFFF_F000}


@clause("core.checks.rip_not_checked")
@pytest.mark.parametrize("rip", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_rip_that_is_not_canonical_faults_in_l2(l1, rip):
    """#GP(0) on the first fetch, with the bad RIP saved."""
    guest = l1.guest("vmmcall", vmcb={"rip": rip})

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=rip)


@clause("core.checks.rip_not_checked")
@pytest.mark.parametrize("limit", [0xFFF, 0xFFFF], ids=["4KiB", "64KiB"])
def test_rip_beyond_the_limit_of_cs_faults_in_l2(l1, limit):
    """Protected mode: the code lies above the limit."""
    guest = l1.guest("start: vmmcall", mode="prot32", vmcb={"cs.limit": limit})

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["start"])


@clause("core.checks.rip_not_checked")
def test_rip_within_the_limit_of_cs_runs(l1):
    """The neighbour: the limit covers the code's page and nothing after it."""
    guest = l1.guest("start: vmmcall", mode="prot32")
    guest.vmcb["cs.limit"] = guest["start"] | 0xFFF

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.segment_bases_not_checked")
@pytest.mark.parametrize("base", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
@pytest.mark.parametrize("segment", ["es", "cs", "ss", "ds", "gdtr", "idtr"])
def test_base_that_is_not_canonical_runs(l1, segment, base):
    """In 64-bit mode the bases of ES, CS, SS and DS count as 0, and L2 uses neither table."""
    guest = l1.guest("start: mov rax, [rbx]\nend: vmmcall", vmcb={f"{segment}.base": base})
    data = l1.scratch(1)
    guest.regs["rbx"] = data
    guest.write(data, b"\x0d\xf0\xad\x8b")

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=0x8BAD_F00D)


@clause("core.checks.segment_attributes_not_checked")
@pytest.mark.parametrize(
    ("field", "attrib"),
    [
        pytest.param("ss.attrib", 0xC91, id="ss_read_only"),
        pytest.param("ss.attrib", 0xC99, id="ss_execute_only"),
        pytest.param("ss.attrib", 0xC13, id="ss_not_present"),
        pytest.param("ds.attrib", 0xC99, id="ds_execute_only"),
        pytest.param("ds.attrib", 0xC82, id="ds_system"),
        pytest.param("es.attrib", 0x000, id="es_null"),
        pytest.param("cs.attrib", 0xA93, id="cs_data"),
        pytest.param("cs.attrib", 0xA82, id="cs_system"),
        pytest.param("cs.attrib", 0xA98, id="cs_execute_only"),
        pytest.param("cs.attrib", 0xAFB, id="cs_dpl3"),
        pytest.param("ss.attrib", 0xCF3, id="ss_dpl3"),
    ],
)
def test_attributes_that_no_descriptor_gives_are_no_reason(l1, field, attrib):
    """L2 is entered; what its first access then does depends on the bits that are observed."""
    assert l1.guest("vmmcall", vmcb={field: attrib}).run().ran


@clause("core.checks.cpl_from_vmcb")
@pytest.mark.parametrize("cpl", [0, 1, 2, 3], ids=lambda cpl: f"cpl{cpl}")
@pytest.mark.parametrize("mode", ["long64", "compat32", "pae32", "paged32"])
def test_cpl_field_decides(l1, mode, cpl):
    """Selectors and attributes say 0. CLTS and its like are for CPL 0; anything else gives #GP(0) in L2."""
    guest = l1.guest("nop\nhere: clts\nend: vmmcall", mode=mode, vmcb={"cpl": cpl})

    exit = guest.run()

    if cpl == 0:
        assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=0)
    else:
        assert exit.matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["here"], cpl=cpl)


@clause("core.checks.cpl_from_vmcb")
@pytest.mark.parametrize("mode", ["long64", "pae32"])
def test_selectors_and_attributes_do_not_decide(l1, mode):
    """The other way round: CPL is 0 and everything else says 3."""
    guest = l1.guest("nop\nclts\nend: vmmcall", mode=mode, cpl=3, vmcb={"cpl": 0})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.checks.cpl_from_vmcb")
@pytest.mark.parametrize("cpl", [0, 1, 3], ids=lambda cpl: f"cpl{cpl}")
def test_real_mode_has_cpl_0(l1, cpl):
    """The field is ignored: a privileged instruction works."""
    guest = l1.guest("nop\nclts\nend: vmmcall", mode="real16", vmcb={"cpl": cpl})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cpl=0)


@clause("core.checks.cpl_from_vmcb")
@pytest.mark.parametrize("cpl", [0, 1, 3], ids=lambda cpl: f"cpl{cpl}")
def test_virtual_8086_mode_has_cpl_3(l1, cpl):
    """The field is ignored: a privileged instruction gives #GP(0)."""
    guest = l1.guest("nop\nhere: clts\nvmmcall", mode="real16", vmcb={"cpl": cpl, "rflags": 1 << 17 | 2})
    guest.vmcb["cr0"] |= 1
    for segment in ("cs", "ds", "es", "ss"):
        guest.vmcb[f"{segment}.attrib"] = 0x0F3

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["here"], cpl=3)


@clause("core.checks.rflags_reserved")
@pytest.mark.parametrize("bit", [1, 3, 5, 15, *range(22, 64)], ids=lambda bit: f"bit{bit}")
def test_rflags_reserved_bit_is_survived(l1, bit):
    """Each reserved bit the wrong way round: bit 1 clear, the others set."""
    guest = l1.guest("start: vmmcall")
    guest.vmcb["rflags"] ^= 1 << bit

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"])


@clause("core.checks.rflags_vm_in_long_mode")
@pytest.mark.parametrize("mode", ["long64", "compat32"])
def test_rflags_vm_in_long_mode_is_survived(l1, mode):
    """There is no virtual-8086 mode in long mode, and nothing says what the bit then does."""
    guest = l1.guest("start: vmmcall", mode=mode)
    guest.vmcb["rflags"] |= 1 << 17

    exit = guest.run()

    assert exit.is_invalid or exit.ran


RESERVED_BITS = [
    *(("intercept_misc3", bit) for bit in range(7, 32)),
    *(("vintr", bit) for bit in (10, *range(13, 16), *range(21, 24), *range(27, 30), *range(40, 64))),
    *(("int_state", bit) for bit in range(2, 64)),
    *(("np_control", bit) for bit in range(8, 64)),
    *(("virt_ext", bit) for bit in range(4, 64)),
]


@clause("core.checks.control_reserved")
@pytest.mark.parametrize(
    ("field", "byte"),
    [
        pytest.param(*item, id=f"{item[0]}-byte{item[1]}")
        for item in dict.fromkeys((f, b // 8) for f, b in RESERVED_BITS)
    ],
)
@pytest.mark.dangerous
def test_reserved_control_bit_is_survived(l1, field, byte):
    """Each reserved bit of the byte alone: L2 runs or is refused, and L1 finds all as it was."""
    guest = l1.guest("start: vmmcall")
    good = guest.vmcb[field]
    for bit in (bit for name, bit in RESERVED_BITS if name == field and bit // 8 == byte):
        guest.rewind()
        guest.vmcb = l1.vmcb_image()
        guest.vmcb[field] = good | 1 << bit
        exit = guest.run()
        assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["start"]), f"{field} bit {bit}"


NOT_OFFERED = [
    pytest.param({"avic_enable": 1}, "AVIC", id="avic"),
    pytest.param({"x2avic_enable": 1}, "x2AVIC", id="x2avic"),
    pytest.param({"v_gif_enable": 1, "v_gif": 0}, "VGIF", id="vgif_clear"),
    pytest.param({"v_nmi_enable": 1}, "VNMI", id="vnmi"),
    pytest.param({"sev_enable": 1}, "SEV", id="sev"),
    pytest.param({"sev_enable": 1, "sev_es_enable": 1}, "SEV-ES", id="sev_es"),
    pytest.param({"gmet_enable": 1}, "GMET", id="gmet"),
    pytest.param({"sss_check_enable": 1}, "SSS", id="sss"),
    pytest.param({"vte_enable": 1}, "VTE", id="vte"),
    pytest.param({"rogpt_enable": 1}, "ROGPT", id="rogpt"),
    pytest.param({"lbr_virt_enable": 1}, "LbrVirt", id="lbr"),
    pytest.param({"virt_vmload_vmsave": 1}, "VmsaveVirt", id="vmload"),
    pytest.param({"ibs_virt_enable": 1}, "IbsVirt", id="ibs"),
    pytest.param({"pmc_virt_enable": 1}, "PmcVirt", id="pmc"),
]


@clause("core.checks.control_unadvertised")
@pytest.mark.parametrize(("vmcb", "feature"), NOT_OFFERED)
@pytest.mark.dangerous
def test_feature_that_is_not_offered_is_ignored_or_refused(l1, vmcb, feature):
    """L2 touches the local APIC's page, an AVIC's favourite, and says that it is done."""
    guest = l1.guest("mov rbx, 0xfee00020\nmov eax, [rbx]\nend: vmmcall", vmcb=vmcb)
    l1.need(f"!{feature}")

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])


@clause("core.checks.control_unadvertised")
@pytest.mark.parametrize("instruction", ["clgi", "stgi"])
@pytest.mark.dangerous
def test_virtual_gif_that_is_not_offered_has_no_effect(l1, instruction):
    """CLGI and STGI in L2 leave V_GIF in the VMCB alone: it is a reserved bit there."""
    guest = l1.guest(
        f"{instruction}\nend: vmmcall", vmcb={"v_gif_enable": 1, "v_gif": 1 if instruction == "clgi" else 0}
    )
    l1.need("!VGIF")

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], v_gif=unchanged)


@clause("core.checks.control_unadvertised")
@pytest.mark.dangerous
def test_virtual_vmload_that_is_not_offered_has_no_effect(l1):
    """L2's VMLOAD still takes a system physical address and loads what stands there."""
    guest = l1.guest(
        "vmload\nmov ecx, 0xc0000102\nrdmsr\nend: vmmcall",
        vmcb={"virt_vmload_vmsave": 1},
        no_intercept=["vmload"],
    )
    l1.need("!VmsaveVirt")
    source = l1.vmcb_image()
    source["kernel_gs_base"] = 0x1234_5678
    guest.vmcb["rax"] = l1.scratch(1)
    guest.write(guest.vmcb["rax"], bytes(source))

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], rax=0x1234_5678)
