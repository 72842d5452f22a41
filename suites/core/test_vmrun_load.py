"""What VMRUN loads from the VMCB, as L2 sees it.

Hardware loads RAX, RSP, RIP, RFLAGS, the control registers, EFER, DR6, DR7, CS, SS, DS, ES, GDTR and IDTR (APM2
15.5.1). An L0 that merges L1's wishes with its own (CR0.TS, CR4 bits it needs, EFER, DR7) may let L2 see its own
values instead.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.event_guest import EventGuest

PAE = 1 << 5
CR0 = 0x8000_0031  # PG, NE, ET, PE: the 64-bit template's
EFER = 0x1500  # SVME, LMA, LME: the 64-bit template's
DR6 = 0xFFFF_0FF0

READ_EFER = "mov ecx, 0xC0000080\nrdmsr\nmov ebx, eax\nmov ebp, edx"


def seen(l1, code, **options):
    """Runs L2 code that leaves a value in RBX."""
    guest = l1.guest(f"{code}\nend: vmmcall", **options)
    exit = guest.run()
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    return exit


@clause("core.load.registers")
@pytest.mark.parametrize("value", [0, 0x0123_4567_89AB_CDEF, (1 << 64) - 1], ids=lambda value: f"{value:x}")
def test_rax(l1, value):
    """RAX is the guest's, not the VMCB's address that the host had there."""
    assert seen(l1, "mov rbx, rax", vmcb={"rax": value}).matches(regs={"rbx": value})


@clause("core.load.registers")
@pytest.mark.parametrize(
    "value", [0, 0x0000_7FFF_FFFF_FFF8, 0xFFFF_8000_0000_0000, 0x1234_5678_9ABC_DEF0], ids=lambda value: f"{value:x}"
)
def test_rsp(l1, value):
    """RSP is a number to VMRUN: it need not be canonical."""
    assert seen(l1, "mov rbx, rsp", vmcb={"rsp": value}).matches(regs={"rbx": value})


@clause("core.load.registers")
@pytest.mark.parametrize("label", ["one", "two", "three"])
def test_rip(l1, label):
    """L2 begins where RIP says."""
    guest = l1.guest(
        "mov bl, 0\none: mov bh, 1\ntwo: mov cl, 2\nthree: mov ch, 3\nend: vmmcall", regs={"rbx": 0, "rcx": 0}
    )
    guest.vmcb["rip"] = guest[label]
    rbx, rcx = {"one": (0x100, 0x302), "two": (0, 0x302), "three": (0, 0x300)}[label]

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": rbx, "rcx": rcx})


FLAGS = {
    "none": 0,
    "cf": 1 << 0,
    "pf": 1 << 2,
    "af": 1 << 4,
    "zf": 1 << 6,
    "sf": 1 << 7,
    "if": 1 << 9,
    "df": 1 << 10,
    "of": 1 << 11,
    "iopl1": 1 << 12,
    "iopl2": 2 << 12,
    "iopl3": 3 << 12,
    "nt": 1 << 14,
    "ac": 1 << 18,
    "vif": 1 << 19,
    "vip": 1 << 20,
    "id": 1 << 21,
    "many": 0x24_7CD5 | 1 << 9,
}


@clause("core.load.registers")
@pytest.mark.parametrize("flags", FLAGS)
def test_rflags(l1, flags):
    """Each flag as PUSHFQ shows it; L1 has none of them set."""
    value = FLAGS[flags] | 2

    assert seen(l1, "pushfq\npop rbx", vmcb={"rflags": value}).matches(regs={"rbx": value})


CR0_VALUES = {
    "plain": CR0,
    "mp": CR0 | 1 << 1,
    "em": CR0 | 1 << 2,
    "ts": CR0 | 1 << 3,
    "ne-clear": CR0 & ~(1 << 5),
    "wp": CR0 | 1 << 16,
    "am": CR0 | 1 << 18,
    "cd": CR0 | 1 << 30,
    "cd-nw": CR0 | 3 << 29,
    "many": CR0 | 0x4005_000E,
}


@clause("core.load.registers")
@pytest.mark.parametrize("case", CR0_VALUES)
def test_cr0(l1, case):
    """TS above all is a bit that an L0 has its own use for."""
    value = CR0_VALUES[case]

    assert seen(l1, "mov rbx, cr0", vmcb={"cr0": value}).matches(regs={"rbx": value}, cr0=value)


@clause("core.load.registers")
@pytest.mark.parametrize(
    "value", [0, 0x0000_1234_5678_9ABC, 0xFFFF_FEDC_BA98_7654, 0x0123_4567_89AB_CDEF], ids=lambda value: f"{value:x}"
)
def test_cr2(l1, value):
    """CR2 holds any number, and comes back to the VMCB. L1's own is another one."""
    guest = l1.guest("mov rbx, cr2\nend: vmmcall", vmcb={"cr2": value})
    guest.setup("mov cr2, rax", {"rax": value ^ (1 << 64) - 1})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": value}, cr2=value)


@clause("core.load.registers")
def test_cr2_comes_back(l1):
    """What L2 writes to CR2 is what #VMEXIT saves."""
    exit = seen(l1, "movabs rbx, 0x0000123456789abc\nmov cr2, rbx", vmcb={"cr2": 0xFFFF_FEDC_BA98_7654})

    assert exit.matches(cr2=0x0000_1234_5678_9ABC)


@clause("core.load.registers")
@pytest.mark.parametrize("bits", [0, 1 << 3, 1 << 4, 3 << 3], ids=["none", "pwt", "pcd", "both"])
def test_cr3(l1, bits):
    """The cacheability bits next to the address are L2's as well."""
    guest = l1.guest("mov rbx, cr3\nend: vmmcall")
    value = guest.vmcb["cr3"] | bits
    guest.vmcb["cr3"] = value

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr3=value, regs={"rbx": value})


CR4_BITS = {
    "none": 0, "vme": 0, "pvi": 1, "tsd": 2, "de": 3, "pse": 4, "mce": 6, "pge": 7, "pce": 8, "osfxsr": 9,
    "osxmmexcpt": 10, "umip": 11, "fsgsbase": 16, "pcide": 17, "osxsave": 18, "pke": 22,
}  # fmt: skip


@clause("core.load.registers")
@pytest.mark.parametrize("bit", CR4_BITS)
def test_cr4(l1, bit):
    """L2 sees its own CR4, not what L0 keeps in the real one (MCE, OSXSAVE, SMEP)."""
    value = PAE if bit == "none" else PAE | 1 << CR4_BITS[bit]
    if value & ~l1.cpuid.cr4_legal_mask():
        pytest.skip(f"CR4.{bit.upper()} is reserved: L1 is not offered its feature")
    if bit in ("vme", "pvi") and not l1.cpuid.leaf(1, 0)[3] >> 1 & 1:
        pytest.skip("CPUID does not offer VME")

    assert seen(l1, "mov rbx, cr4", vmcb={"cr4": value}).matches(regs={"rbx": value}, cr4=value)


@clause("core.load.registers")
@pytest.mark.parametrize(
    ("name", "bits"),
    [("none", 0), ("sce", 1 << 0), ("nxe", 1 << 11), ("ffxsr", 1 << 14), ("tce", 1 << 15)],
    ids=["none", "sce", "nxe", "ffxsr", "tce"],
)
def test_efer(l1, name, bits):
    """RDMSR in L2 shows the VMCB's EFER, SVME included."""
    value = EFER | bits
    if value & ~l1.cpuid.efer_legal_mask():
        pytest.skip(f"EFER.{name.upper()} is reserved: L1 is not offered its feature")

    exit = seen(l1, READ_EFER, vmcb={"efer": value})

    assert exit.matches(regs={"rbx": value, "rbp": 0}, efer=value)


@clause("core.load.registers")
@pytest.mark.parametrize("bits", [0, 0x1, 0x8, 0xF, 0x2000, 0x4000, 0x8000], ids=lambda bits: f"{bits:x}")
def test_dr6(l1, bits):
    """The status bits are what L1 put there."""
    assert seen(l1, "mov rbx, dr6", vmcb={"dr6": DR6 | bits}).matches(regs={"rbx": DR6 | bits}, dr6=DR6 | bits)


@clause("core.load.registers")
@pytest.mark.parametrize(
    "value", [0x400, 0x3333_0400, 0xDDDD_0400, 0x00D0_0400, 0x9110_0400], ids=lambda value: f"{value:x}"
)
def test_dr7(l1, value):
    """No breakpoint is enabled in these; L2 sees the fields all the same."""
    assert seen(l1, "mov rbx, dr7", vmcb={"dr7": value}).matches(regs={"rbx": value}, dr7=value)


@clause("core.load.segments")
@pytest.mark.parametrize("value", [0x0008, 0x1230, 0xFFF8], ids=lambda value: f"{value:04x}")
@pytest.mark.parametrize("segment", ["es", "cs", "ss", "ds"])
def test_selectors(l1, segment, value):
    """No descriptor is looked at: GDTR.limit is 0."""
    exit = seen(l1, f"mov ebx, {segment}", vmcb={f"{segment}.selector": value})

    assert exit.matches(regs={"rbx": value}, fields={f"{segment}.selector": value})


@clause("core.load.segments")
@pytest.mark.parametrize("mode", ["prot32", "paged32", "pae32", "compat32", "real16"])
@pytest.mark.parametrize("segment", ["es", "ss", "ds"])
def test_bases(l1, segment, mode):
    """Data comes from the base in the VMCB; in real mode as well, whatever the selector is."""
    page = l1.scratch()
    l1.write(page + 0x10, (0x1122_3344).to_bytes(4, "little"))

    exit = seen(l1, f"mov ebx, {segment}:[0x10]", mode=mode, vmcb={f"{segment}.base": page}, regs={"rbx": 0})

    assert exit.matches(regs={"rbx": 0x1122_3344})


@clause("core.load.segments")
@pytest.mark.parametrize("mode", ["prot32", "paged32", "compat32"])
@pytest.mark.parametrize("shift", [0x1000, 0x7FF0])
def test_cs_base(l1, shift, mode):
    """The first instruction is at CS.base + RIP."""
    guest = l1.guest("nop\nmov ebx, 0x600D\nend: vmmcall", mode=mode)
    guest.vmcb["rip"] = guest.vmcb["rip"] - shift
    guest.vmcb["cs.base"] = shift

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"] - shift, regs={"rbx": 0x600D}, fields={"cs.base": shift})


@clause("core.load.segments")
@pytest.mark.parametrize("override", ["none", "override"])
@pytest.mark.parametrize(
    ("segment", "prefix"), [("es", 0x26), ("cs", 0x2E), ("ss", 0x36), ("ds", 0x3E)], ids=["es", "cs", "ss", "ds"]
)
def test_base_means_nothing_in_64_bit_mode(l1, segment, prefix, override):
    """64-bit code treats these bases as zero, whatever the VMCB holds and whether it names the segment or not."""
    page = l1.scratch()
    l1.write(page, (0x1122_3344_5566_7788).to_bytes(8, "little"))
    byte = f".byte {prefix:#x}\n" if override == "override" else ""

    exit = seen(l1, f"{byte}mov rbx, [rdi]", vmcb={f"{segment}.base": 0x12_3000}, regs={"rdi": page})

    assert exit.matches(regs={"rbx": 0x1122_3344_5566_7788})


@clause("core.load.segments")
@pytest.mark.parametrize("limit", [0, 0x27, 0xFFFF], ids=lambda limit: f"{limit:x}")
@pytest.mark.parametrize("base", [0, 0x0000_7ABC_DEF0_1234, 0xFFFF_8765_4321_0000], ids=lambda base: f"{base:x}")
@pytest.mark.parametrize("table", ["gdtr", "idtr"])
def test_descriptor_tables(l1, table, base, limit):
    """SGDT and SIDT store what the VMCB holds, not the tables of L1 or L0."""
    code = f"s{table[0]}dt [rsp - 16]\nmovzx ebx, word ptr [rsp - 16]\nmov rcx, [rsp - 14]"
    fields = {f"{table}.base": base, f"{table}.limit": limit}

    exit = seen(l1, code, vmcb=fields)

    assert exit.matches(regs={"rbx": limit, "rcx": base}, fields=fields)


@clause("core.load.v_tpr_is_cr8")
@pytest.mark.parametrize("tpr", range(16))
def test_v_tpr_is_cr8(l1, tpr):
    """L2's task priority is the VMCB's, not the APIC's, while V_INTR_MASKING is 1."""
    exit = seen(l1, "mov rbx, cr8", vmcb={"v_intr_masking": 1, "v_tpr": tpr})

    assert exit.matches(regs={"rbx": tpr}, v_tpr=tpr)


@clause("core.load.v_tpr_is_cr8")
@pytest.mark.parametrize("host", [0, 5, 14])
def test_host_tpr_is_not_seen(l1, host):
    """L1's own CR8 is another number, and stays."""
    guest = l1.guest("mov rbx, cr8\nend: vmmcall", vmcb={"v_intr_masking": 1, "v_tpr": 9})
    guest.setup("mov cr8, rax", {"rax": host})
    guest.teardown("mov rbx, cr8\nxor eax, eax\nmov cr8, rax")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 9})
    assert l1.expect("L1's CR8 after #VMEXIT", exit.teardown.reg("rbx"), host)


SHADOWS = {
    "none": "vmrun",
    "sti": "sti\nvmrun",
    "mov-ss": "mov ecx, ss\nmov ss, ecx\nvmrun",
    "sti-mov-ss": "mov ecx, ss\nsti\nmov ss, ecx\nvmrun",
}


@clause("core.load.host_shadow")
@pytest.mark.parametrize("shadow", SHADOWS)
def test_host_shadow_is_not_the_guests(l1, shadow):
    """A virtual interrupt that is pending exits (64h) before a single L2 instruction."""
    guest = l1.guest(
        "start: inc rbx\ninc rbx\nvmmcall",
        intercept=["vintr"],
        vmcb={"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": 0x50, "rflags": 0x202, "int_state": 0},
    )
    l1.write(guest["start"], guest.code)
    l1.write(guest.vmcb_pa, bytes(guest.vmcb.data))

    result = l1.code(f"{SHADOWS[shadow]}\ncli", {"rax": guest.vmcb_pa, "rbx": 0x100})
    code = int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")
    rip = int.from_bytes(l1.read(guest.vmcb_pa + 0x578, 8), "little")

    assert result.returned
    assert l1.expect("EXITCODE[31:0]", code, VMEXIT.VINTR, width_bytes=4)
    assert l1.expect("L2's RIP", rip, guest["start"])
    assert l1.expect("RBX, which L2 counts up", result.reg("rbx"), 0x100)


@clause("core.load.table_limits")
@pytest.mark.parametrize("upper", [0, 0x1_0000, 0xFFFF_0000], ids=["zero", "bit16", "ones"])
def test_table_limit_has_16_bits(l1, upper):
    """The descriptor at 20h is there, but beyond the low half of GDTR.limit."""
    guest = EventGuest(l1, "mov eax, 0x23\nload: mov es, eax\nvmmcall")
    guest.vmcb["gdtr.limit"] = upper | 0x1F

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["load"], info1=0x20)
