"""VMLOAD and VMSAVE: which state they move, and nothing else.

They move FS, GS, TR and LDTR with their hidden parts, KernelGSBase, STAR, LSTAR, CSTAR, SFMASK and the three SYSENTER
MSRs between the CPU and the VMCB at rAX (APM2 15.5.2), and VMLOAD makes bases canonical instead of faulting (15.5.1).
An L0 that does this by hand forgets a field, writes the whole page back, uses WRMSR and takes its #GP, or lands in
its own memory instead of L1's.
"""

import pytest

from harness import clause, masked, sign_extended

# Of the attributes only those that the CPU observes are compared: D, P, DPL, code or data, E and W of FS and GS;
# P, S and the type of LDTR; S and the type of TR but for its busy bit, which parts do not keep (15.5.1; KVM's
# svm_get_segment()). The SYSENTER addresses have 32 bits on AMD parts.
OBSERVED = {"fs": 0x4EE, "gs": 0x4EE, "ldtr": 0x09F, "tr": 0x01D}

# Field -> (offset, width in bytes, the bits that are compared).
FIELDS = {
    f"{segment}.{part}": (base + at, width, (1 << 8 * width) - 1 if part != "attrib" else OBSERVED[segment])
    for segment, base in {"fs": 0x440, "gs": 0x450, "ldtr": 0x470, "tr": 0x490}.items()
    for part, at, width in (("selector", 0, 2), ("attrib", 2, 2), ("limit", 4, 4), ("base", 8, 8))
} | {
    "star": (0x600, 8, (1 << 64) - 1),
    "lstar": (0x608, 8, (1 << 64) - 1),
    "cstar": (0x610, 8, (1 << 64) - 1),
    "sfmask": (0x618, 8, 0xFFFF_FFFF),
    "kernel_gs_base": (0x620, 8, (1 << 64) - 1),
    "sysenter_cs": (0x628, 8, 0xFFFF),
    "sysenter_esp": (0x630, 8, 0xFFFF_FFFF),
    "sysenter_eip": (0x638, 8, 0xFFFF_FFFF),
}
MSRS = {
    "star": 0xC000_0081,
    "lstar": 0xC000_0082,
    "cstar": 0xC000_0083,
    "sfmask": 0xC000_0084,
    "fs.base": 0xC000_0100,
    "gs.base": 0xC000_0101,
    "kernel_gs_base": 0xC000_0102,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
}
RANGES = [(0x440, 0x460), (0x470, 0x480), (0x490, 0x4A0), (0x600, 0x640)]

# What a field is set to; a limit needs attributes that go with it.
LOW, HIGH = 0x0000_7EDC_BA98_7654, 0xFFFF_8123_4567_89AB
VALUES = {
    "fs.selector": [0x5678, 0x0010],
    "fs.base": [LOW, HIGH],
    "gs.selector": [0x9ABC, 0x002B],
    "gs.base": [LOW, HIGH],
    "ldtr.selector": [0x0058, 0x1230],
    "ldtr.base": [LOW, HIGH],
    "tr.selector": [0x0048, 0x4560],
    "tr.base": [LOW, HIGH],
    "star": [0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210],
    "lstar": [LOW, HIGH],
    "cstar": [LOW, HIGH],
    "sfmask": [0x0004_7700, 0xA5A5_5A5A],
    "kernel_gs_base": [LOW, HIGH],
    "sysenter_cs": [0x0008, 0x5678],
    "sysenter_esp": [0x1234_5678, 0xFEDC_BA98],
    "sysenter_eip": [0x1234_5678, 0xFEDC_BA98],
}
HIDDEN = {
    "fs-byte-limit": {"fs.attrib": 0x093, "fs.limit": 0x1_2345},
    "fs-page-limit": {"fs.attrib": 0xC93, "fs.limit": 0xABCD_EFFF},
    "fs-read-only": {"fs.attrib": 0x091, "fs.limit": 0xFFFF},
    "fs-dpl3": {"fs.attrib": 0xCF3, "fs.limit": 0xFFFF_FFFF},
    "gs-byte-limit": {"gs.attrib": 0x093, "gs.limit": 0xF_EDCB},
    "gs-page-limit": {"gs.attrib": 0xC93, "gs.limit": 0x1234_5FFF},
    "gs-dpl3": {"gs.attrib": 0xCF3, "gs.limit": 0xFFFF_FFFF},
    "ldtr-limit": {"ldtr.attrib": 0x082, "ldtr.limit": 0xFFFF},
    "ldtr-page-limit": {"ldtr.attrib": 0x882, "ldtr.limit": 0x1_2FFF},
    "tr-limit": {"tr.attrib": 0x08B, "tr.limit": 0x0678},
    "tr-page-limit": {"tr.attrib": 0x88B, "tr.limit": 0x1_2FFF},
}
CASES = {f"{field}-{n}": {field: value} for field, values in VALUES.items() for n, value in enumerate(values)} | HIDDEN

# R8: a page for L1's own state, R9: the page to load, R10: the page to save to. R9 becomes a copy of R8 with changes.
COPY = """
    mov rax, r8
    vmsave
    mov rsi, r8
    mov rdi, r9
    mov ecx, 512
    rep movsq
"""
READ_MSR = """
    rdmsr
    shl rdx, 32
    mov eax, eax
    or rdx, rax
"""


def change(fields):
    """L1 code that writes these fields into the page at R9."""
    size = {2: "cx", 4: "ecx", 8: "rcx"}
    return "".join(
        f"movabs rcx, {value:#x}\nmov [r9 + {FIELDS[name][0]:#x}], {size[FIELDS[name][1]]}\n"
        for name, value in fields.items()
    )


def load(fields, probe, *, save=True, before=""):
    """L1 code: runs `before`, loads these fields with VMLOAD, runs `probe` (result in R11), saves to R10, puts L1's
    state back.
    """
    saved = "mov rax, r10\nvmsave\n" if save else ""
    return f"{COPY}{before}{change(fields)}mov rax, r9\nvmload\n{probe}\n{saved}mov rax, r8\nvmload\n"


def pages(l1):
    """Registers for the code above: three pages with a page around each, of which the third is filled."""
    base = l1.scratch(7)
    l1.fill(base + 0x4000, 0x3000, 0x5A)
    return {"r8": base + 0x1000, "r9": base + 0x3000, "r10": base + 0x5000}


def field_at(data, name):
    """A field's value in the bytes of a page."""
    offset, width, _ = FIELDS[name]
    return int.from_bytes(data[offset : offset + width], "little")


def expect_field(l1, name, got, value):
    """Compares what is defined of a field."""
    _, width, mask = FIELDS[name]
    return l1.expect(name, got & mask, value & mask, width_bytes=width)


@clause("core.vmload.loads_its_fields", "core.vmsave.writes_its_fields")
@pytest.mark.parametrize("case", CASES)
def test_round_trip(l1, case):
    """What VMLOAD takes from one page, VMSAVE stores to another."""
    fields = CASES[case]
    regs = pages(l1)

    result = l1.code(load(fields, ""), regs)
    data = l1.read(regs["r10"], 0x1000)

    assert result.returned
    for name, value in fields.items():
        assert expect_field(l1, name, field_at(data, name), value)


@clause("core.vmload.loads_its_fields")
@pytest.mark.parametrize("case", [case for case in CASES if case.rpartition("-")[0] in MSRS])
def test_vmload_shows_in_rdmsr(l1, case):
    """The MSR is the state itself, not a copy that VMSAVE alone sees."""
    ((name, value),) = CASES[case].items()
    other = VALUES[name][1 - VALUES[name].index(value)]  # so that no earlier test can have left the value there
    before = f"mov ecx, {MSRS[name]:#x}\nmov eax, {other & 0xFFFF_FFFF:#x}\nmov edx, {other >> 32:#x}\nwrmsr\n"

    result = l1.code(load(CASES[case], f"mov ecx, {MSRS[name]:#x}\n{READ_MSR}\nmov r11, rdx", before=before), pages(l1))

    assert result.returned
    assert expect_field(l1, name, result.reg("r11"), value)


@clause("core.vmload.loads_its_fields")
@pytest.mark.parametrize(
    ("name", "insn"),
    [
        ("fs.selector", "mov r11d, fs"),
        ("gs.selector", "mov r11d, gs"),
        ("ldtr.selector", "sldt r11"),
        ("tr.selector", "str r11"),
    ],
    ids=["fs", "gs", "ldtr", "tr"],
)
@pytest.mark.parametrize("n", [0, 1])
def test_vmload_shows_in_selectors(l1, name, insn, n):
    """The visible part of the segment registers."""
    value = VALUES[name][n]

    result = l1.code(load({name: value}, insn), pages(l1))

    assert result.returned
    assert l1.expect(name, result.reg("r11") & 0xFFFF, value, width_bytes=2)


@clause("core.vmload.loads_its_fields")
@pytest.mark.parametrize("segment", ["fs", "gs"])
def test_vmload_base_is_used(l1, segment):
    """The next access through the segment goes to the new base."""
    regs = pages(l1)
    target = l1.scratch()
    l1.write(target + 0x123, (0x1122_3344_5566_7788).to_bytes(8, "little"))

    result = l1.code(load({f"{segment}.base": target}, f"mov ebx, 0x123\nmov r11, {segment}:[rbx]"), regs)

    assert result.returned
    assert l1.expect(f"the quadword at {segment.upper()}:123h", result.reg("r11"), 0x1122_3344_5566_7788)


@clause("core.vmsave.writes_its_fields")
@pytest.mark.parametrize("case", [case for case in CASES if case.rpartition("-")[0] in MSRS])
def test_vmsave_stores_what_wrmsr_wrote(l1, case):
    """WRMSR and VMSAVE speak of the same register."""
    ((name, value),) = CASES[case].items()
    code = f"{COPY}mov ecx, {MSRS[name]:#x}\nmov eax, {value & 0xFFFF_FFFF:#x}\nmov edx, {value >> 32:#x}\nwrmsr\n"
    regs = pages(l1)

    result = l1.code(code + "mov rax, r10\nvmsave\nmov rax, r8\nvmload\n", regs)
    data = l1.read(regs["r10"], 0x1000)

    assert result.returned
    assert expect_field(l1, name, field_at(data, name), value)


@clause("core.vmsave.writes_nothing_else")
@pytest.mark.parametrize("fill", [0x5A, 0xA5], ids=["5a", "a5"])
def test_vmsave_leaves_other_bytes(l1, fill):
    """The rest of the page, which another CPU may be using, and the pages next to it stay as they are."""
    base = l1.scratch(3)
    l1.fill(base, 0x3000, fill)

    assert l1.code("vmsave", {"rax": base + 0x1000}).returned
    data = l1.read(base, 0x3000)

    written = [(0x1000 + start, 0x1000 + end) for start, end in RANGES]
    changed = [
        at for at, byte in enumerate(data) if byte != fill and not any(start <= at < end for start, end in written)
    ]
    first = f", the first one at VMCB{changed[0] - 0x1000:+#x}: {data[changed[0]]:02X}h" if changed else ""
    assert l1.expect(f"bytes changed that VMSAVE does not write{first}", len(changed), 0)


@clause("core.vmsave.writes_nothing_else", "core.vmload.loads_nothing_else")
@pytest.mark.parametrize("insn", ["vmload", "vmsave"])
def test_general_registers_stay(l1, insn):
    """RAX is an operand, not a result, and there are no flags to set."""
    names = ["rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{n}" for n in range(8, 16))]
    regs = {name: 0x1111_2222_3333_0000 * (n + 1) & (1 << 64) - 1 for n, name in enumerate(names)}
    regs["rax"] = l1.scratch()
    setup = "vmsave\n" if insn == "vmload" else ""

    result = l1.code(f"{setup}push 0xCD7\npopfq\n{insn}\n", regs)

    assert result.returned
    for name, value in regs.items():
        assert l1.expect(name.upper(), result.reg(name), value)
    assert l1.expect("RFLAGS", result.rflags & 0xCD5, 0xCD5)


SNAPSHOT = """
    mov rax, cr0
    stosq
    mov rax, cr2
    stosq
    mov rax, cr3
    stosq
    mov rax, cr4
    stosq
    mov rax, cr8
    stosq
    mov rax, dr0
    stosq
    mov rax, dr6
    stosq
    mov rax, dr7
    stosq
    sgdt [rdi]
    sidt [rdi + 16]
    add rdi, 32
    mov eax, cs
    stosq
    mov eax, ss
    stosq
    mov eax, ds
    stosq
    mov eax, es
    stosq
    mov rax, rsp
    stosq
    mov ecx, 0xC0000080
    rdmsr
    stosd
    mov ecx, 0x277
    rdmsr
    stosd
    mov eax, edx
    stosq
"""


@clause("core.vmload.loads_nothing_else")
@pytest.mark.parametrize("fill", [0x00, 0xA5, 0xFF], ids=["00", "a5", "ff"])
def test_vmload_leaves_other_state(l1, fill):
    """The page holds nonsense where VMRUN would look for CR0, EFER, RSP, GDTR and the rest."""
    regs = pages(l1)
    before, after = l1.scratch(), l1.scratch()
    fill_others = "".join(
        f"lea rdi, [r9 + {start:#x}]\nmov ecx, {end - start}\nmov eax, {fill:#x}\nrep stosb\n"
        for start, end in zip([0, 0x460, 0x480, 0x4A0, 0x640], [0x440, 0x470, 0x490, 0x600, 0x1000], strict=True)
    )
    code = f"{COPY}{fill_others}mov rdi, r12\n{SNAPSHOT}mov rax, r9\nvmload\nmov rdi, r13\n{SNAPSHOT}"

    assert l1.code(code, regs | {"r12": before, "r13": after}).returned
    old, new = l1.read(before, 0x100), l1.read(after, 0x100)
    for at in range(0, 0x100, 8):
        got, expected = (int.from_bytes(data[at : at + 8], "little") for data in (new, old))
        assert l1.expect(f"quadword {at // 8} of the state L1 noted", got, expected)


@clause("core.vmload.loads_nothing_else")
def test_vmload_only_reads(l1):
    """Not a byte of the page changes."""
    regs = pages(l1)
    patch = {"star": 0x0123_4567_89AB_CDEF, "fs.base": LOW, "kernel_gs_base": 0x5A00_0000_1234_5678}
    code = (
        f"{COPY}{change(patch)}mov rsi, r9\nmov rdi, r10\nmov ecx, 512\nrep movsq\n"
        "mov rax, r9\nvmload\nmov rax, r8\nvmload"
    )

    assert l1.code(code, regs).returned
    same = l1.read(regs["r9"], 0x1000) == l1.read(regs["r10"], 0x1000)
    assert l1.expect("the page that VMLOAD read is as before", same, True)


# Addresses that are canonical for neither 48 nor 57 bits, yet have one canonical form in both: bits 56:47 agree.
BOTH_WIDTHS = {
    "5a00": 0x5A00_1234_5678_9000,
    "a5ff": 0xA5FF_9234_5678_9000,
    "7e00": 0x7E00_0000_0000_1000,
    "81ff": 0x81FF_FFFF_FFFF_F000,
}
# And those that depend on there being 48 address bits.
WIDTH_48 = {
    "bit47": 0x0000_8000_0000_1000,
    "bit48": 0x0001_0000_0000_1000,
    "bit56": 0x0100_7FFF_0000_1000,
    "bit62-47": 0x4000_8000_1234_5000,
}
BASES = ["fs.base", "gs.base", "ldtr.base", "tr.base", "kernel_gs_base"]


@clause("core.vmload.canonicalises")
@pytest.mark.parametrize("case", [*BOTH_WIDTHS, *WIDTH_48])
@pytest.mark.parametrize("name", BASES)
def test_vmload_canonicalises(l1, name, case):
    """VMSAVE shows the sign-extended address; nothing faults."""
    if case in WIDTH_48 and l1.cpuid.has("LA57"):
        pytest.skip("with LA57 (CPUID Fn0000_0007 ECX[16]) the APM leaves open which width counts")
    value = (BOTH_WIDTHS | WIDTH_48)[case]
    regs = pages(l1)

    result = l1.code(load({name: value}, ""), regs)
    data = l1.read(regs["r10"], 0x1000)

    assert result.returned
    assert l1.expect(name, field_at(data, name), sign_extended(value))


@clause("core.vmload.noncanonical_msrs")
@pytest.mark.parametrize(
    "value", [0x5A00_1234_5678_9000, 0x8000_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF], ids=lambda value: f"{value:x}"
)
@pytest.mark.parametrize("name", ["lstar", "cstar", "sysenter_esp", "sysenter_eip"])
def test_vmload_does_not_fault_on_msrs(l1, name, value):
    """WRMSR would raise #GP for some of these; VMLOAD has no such exception. What RDMSR gives is not asked."""
    result = l1.code(load({name: value}, ""), pages(l1))

    assert result.returned


@clause("core.vmload.noncanonical_msrs")
@pytest.mark.parametrize("name", ["sfmask", "sysenter_cs"])
def test_vmload_does_not_fault_on_reserved_bits(l1, name):
    """The low bits arrive, whatever becomes of those that the MSR does not have."""
    low = FIELDS[name][2]
    regs = pages(l1)

    result = l1.code(load({name: 0xFFFF_FFFF_FFFF_FFFF}, ""), regs)
    data = l1.read(regs["r10"], 0x1000)

    assert result.returned
    assert l1.expect(name, field_at(data, name), masked(low, low))
