"""The intercepts of control register reads and writes.

Each of CR0, CR2, CR3, CR4 and CR8 has a bit for reads and one for writes; the exit comes before the access, with a code
that names register and direction (APM2 15.9, Table 15-7). An L0 that intercepts some of these for itself must give L1
those that L1 asked for and no others, and must carry out the rest as the processor would, in the general register that
the instruction names. A wrong one mixes up reads and writes, or leaks the result before the exit.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked, unchanged

PATTERN = 0x1122_3344_5566_7788
CLEAR_CR2 = "xor eax, eax\nmov cr2, rax"  # L1 and L2 share it
GPRS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16))]
ENCODINGS = ["rax", "rbx", "rsp", "rbp", "rdi", "r8", "r12", "r15"]  # those that differ in how they are encoded
NAMES_32 = {"rax": "eax", "rbx": "ebx", "rcx": "ecx", "rdx": "edx", "rsi": "esi", "rdi": "edi", "rbp": "ebp"}
# A register of its own for each control register, so that not one alone is asked for.
GPR_OF = {0: "rbx", 2: "rsi", 3: "rdi", 4: "rbp", 8: "rdx"}

MODES_AND_CRS = [
    pytest.param(mode, np, cr, id=f"{mode}{'-np' if np else ''}-cr{cr}")
    for mode, np, crs in (
        ("long64", False, (0, 2, 3, 4, 8)),
        ("long64", True, (0, 3, 4)),
        ("compat32", False, (0, 3)),
        ("pae32", False, (3, 4)),
        ("paged32", False, (2, 3)),
        ("prot32", False, (0, 4)),
        ("real16", False, (0, 2, 3, 4)),
    )
    for cr in crs
]


def _name(gpr, mode):
    return gpr if mode == "long64" else NAMES_32[gpr]


@clause("core.cr_access.read")
@pytest.mark.parametrize(("mode", "np", "cr"), MODES_AND_CRS)
def test_read_exits(l1, mode, np, cr):
    if np:
        l1.need("NP")
    gpr = GPR_OF[cr]
    code = f"nop\nstart: mov {_name(gpr, mode)}, cr{cr}\nvmmcall"
    guest = l1.guest(code, mode=mode, np=np, intercept=[f"cr{cr}_read"], regs={gpr: PATTERN})

    assert guest.run().matches(code=VMEXIT.CR0_READ + cr, rip=guest["start"], regs={gpr: PATTERN}, rax=unchanged)


@clause("core.cr_access.write")
@pytest.mark.parametrize(("mode", "np", "cr"), MODES_AND_CRS)
def test_write_exits(l1, mode, np, cr):
    """The value written is a legal one that differs from the present one."""
    if np:
        l1.need("NP")
    gpr = GPR_OF[cr]
    code = f"nop\nstart: mov cr{cr}, {_name(gpr, mode)}\nvmmcall"
    guest = l1.guest(code, mode=mode, np=np, intercept=[f"cr{cr}_write"])
    _give_cr2(guest, mode)
    guest.regs[gpr] = {
        0: guest.vmcb["cr0"] ^ 1 << 18,  # AM
        2: 0x55AA_1234,
        3: guest.vmcb["cr3"] ^ 1 << 3,  # PWT
        4: guest.vmcb["cr4"] ^ 1 << 2,  # TSD
        8: 5,
    }[cr]

    exit = guest.run()

    same = dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "v_tpr"), unchanged)
    assert exit.matches(code=VMEXIT.CR0_WRITE + cr, rip=guest["start"], regs={gpr: guest.regs[gpr]}, fields=same)


def _give_cr2(guest, mode):
    """CR2 holds a pattern in L2. L1's own CR2 too, so that this says nothing about whether VMRUN loads it."""
    guest.vmcb["cr2"] = PATTERN if mode == "long64" else PATTERN & 0xFFFF_FFFF
    guest.setup("mov cr2, rax", {"rax": guest.vmcb["cr2"]})
    guest.teardown(CLEAR_CR2)


def _all_but(word, n):
    """Every CR intercept except bit `n` of that word."""
    fields = {"intercept_cr_read": 0xFFFF, "intercept_cr_write": 0xFFFF}
    fields[word] &= ~(1 << n)
    return fields


@clause("core.cr_access.independent")
@pytest.mark.parametrize(
    ("mode", "cr"), [*(("long64", n) for n in (0, 2, 3, 4, 8)), *(("prot32", n) for n in (0, 2, 3, 4))]
)
def test_read_with_all_other_intercepts(l1, mode, cr):
    """The near miss: every bit is set but this one. The register's value arrives."""
    fields = _all_but("intercept_cr_read", cr) | {"v_tpr": 9}
    guest = l1.guest(f"mov {_name('rbx', mode)}, cr{cr}\nend: vmmcall", mode=mode, vmcb=fields)
    _give_cr2(guest, mode)
    value = guest.vmcb[f"cr{cr}"] if cr != 8 else 9

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": value})


@clause("core.cr_access.independent")
@pytest.mark.parametrize(
    ("mode", "cr"), [*(("long64", n) for n in (0, 2, 3, 4, 8)), *(("pae32", n) for n in (0, 2, 3, 4))]
)
def test_write_with_all_other_intercepts(l1, mode, cr):
    """The near miss: every bit is set but this one. The register takes the value, and is saved with it."""
    fields = _all_but("intercept_cr_write", cr)
    guest = l1.guest(f"mov cr{cr}, {_name('rsi', mode)}\nend: vmmcall", mode=mode, vmcb=fields)
    field = "v_tpr" if cr == 8 else f"cr{cr}"
    value = {
        0: guest.vmcb["cr0"] | 1 << 18,
        2: PATTERN if mode == "long64" else 0x5566_7788,
        3: guest.vmcb["cr3"] | 1 << 3,
        4: guest.vmcb["cr4"] | 1 << 2,
        8: 5,
    }[cr]
    guest.regs["rsi"] = value
    guest.teardown(CLEAR_CR2)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields={field: value})


@clause("core.cr_access.independent")
@pytest.mark.parametrize("gpr", ENCODINGS)
def test_value_goes_to_the_register_named(l1, gpr):
    """CR3 is read by many an L0 for itself: the value goes where the instruction says and nowhere else."""
    guest = l1.guest(f"mov {gpr}, cr3\nend: vmmcall", vmcb={"rax": PATTERN})
    others = {name: unchanged for name in GPRS if name not in (gpr, "rax", "rsp")}
    expected = others | {gpr: guest.vmcb["cr3"]}
    if gpr != "rax":
        expected["rax"] = PATTERN
    if gpr != "rsp":
        expected["rsp"] = guest.vmcb["rsp"]

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs=expected)


@clause("core.cr_access.independent")
@pytest.mark.parametrize("gpr", ENCODINGS)
def test_value_comes_from_the_register_named(l1, gpr):
    """CR2 takes any value, so each register holds one of its own."""
    values = {name: 0x0101_0101_0101_0101 * (n + 1) for n, name in enumerate(GPRS)}
    guest = l1.guest(f"mov cr2, {gpr}\nend: vmmcall", regs=values)
    guest.teardown(CLEAR_CR2)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr2=values[gpr])


@clause("core.cr_access.implicit_not_intercepted")
@pytest.mark.parametrize("mode", ["long64", "compat32", "pae32", "paged32", "prot32", "real16"])
def test_vmrun_and_exit_are_not_intercepted(l1, mode):
    """VMRUN and #VMEXIT load all of them, with every intercept set."""
    fields = {"intercept_cr_read": 0xFFFF, "intercept_cr_write": 0xFFFF}
    guest = l1.guest("nop\nend: vmmcall", mode=mode, intercept=["cr0_sel"], vmcb=fields)

    same = dict.fromkeys(("cr0", "cr3", "cr4"), unchanged)
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], fields=same)


IMPLICIT = {
    "wrmsr_efer": "mov ecx, 0xC0000080\nrdmsr\nor eax, 1\nwrmsr",
    "lgdt": "sgdt [rbx]\nlgdt [rbx]",
    "mov_es_null": "xor edx, edx\nmov es, edx",
    "invlpg": "invlpg [rbx]",
}


@clause("core.cr_access.implicit_not_intercepted")
@pytest.mark.parametrize("name", IMPLICIT)
def test_other_state_changes_are_not_intercepted(l1, name):
    """Instructions that change paging or segment state by other ways."""
    fields = {"intercept_cr_read": 0xFFFF, "intercept_cr_write": 0xFFFF}
    guest = l1.guest(f"{IMPLICIT[name]}\nend: vmmcall", intercept=["cr0_sel"], vmcb=fields)
    guest.regs["rbx"] = l1.scratch()

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])


def _mov_cr(n, *, write):
    """MOV with RAX and CRn, as bytes: the assembler knows no such registers."""
    prefix = [0x44] if n >= 8 else []
    return ".byte " + ", ".join(hex(b) for b in [*prefix, 0x0F, 0x22 if write else 0x20, 0xC0 | (n & 7) << 3])


@clause("core.cr_access.no_such_register")
@pytest.mark.parametrize("all_bits", [False, True], ids=["no_intercepts", "all_intercepts"])
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("cr", [1, 9], ids=lambda cr: f"cr{cr}")
def test_no_such_register(l1, cr, write, all_bits):
    """#UD; with the intercept bit set hardware decides whether it comes first."""
    bits = 0xFFFF if all_bits else 0
    fields = {"intercept_cr_read": bits, "intercept_cr_write": bits}
    guest = l1.guest(f"nop\nstart: {_mov_cr(cr, write=write)}\nvmmcall", vmcb=fields)
    intercepted = (VMEXIT.CR0_WRITE if write else VMEXIT.CR0_READ) + cr
    code = any_of(VMEXIT.EXCP_UD, intercepted) if all_bits else VMEXIT.EXCP_UD

    assert guest.run().matches(code=code, rip=guest["start"], rax=unchanged)


@clause("core.cr_access.machine_status_word")
@pytest.mark.parametrize("mode", ["long64", "real16"])
@pytest.mark.parametrize("form", ["smsw_register", "smsw_memory", "lmsw_register", "lmsw_memory", "clts"])
def test_machine_status_word(l1, form, mode):
    """SMSW reads CR0, LMSW and CLTS write it."""
    guest, page = _msw_guest(l1, form, mode)
    name = "cr0_read" if form.startswith("smsw") else "cr0_write"
    guest.vmcb.intercept(name)

    exit = guest.run(read={"operand": (page, 2)})

    code = VMEXIT.CR0_READ if form.startswith("smsw") else VMEXIT.CR0_WRITE
    assert exit.matches(code=code, rip=guest["start"], cr0=unchanged, regs={"rbx": unchanged, "rdx": unchanged})
    assert l1.expect("the memory operand", int.from_bytes(exit.memory["operand"], "little"), 0x000D, width_bytes=2)


@clause("core.cr_access.machine_status_word")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("form", ["smsw_register", "smsw_memory", "lmsw_register", "lmsw_memory", "clts"])
def test_machine_status_word_under_the_other_intercept(l1, form, mode):
    """The near miss: every CR intercept but the one that covers it. The effect is the ordinary one."""
    guest, page = _msw_guest(l1, form, mode)
    guest.vmcb.update(_all_but("intercept_cr_read" if form.startswith("smsw") else "intercept_cr_write", 0))
    cr0 = guest.vmcb["cr0"]

    exit = guest.run(read={"operand": (page, 2)})

    after = {"lmsw": cr0 & ~0xF | 0xD, "clts": cr0 & ~8, "smsw": cr0}[form[:4]]
    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr0=after)
    if form == "smsw_register":
        assert exit.matches(regs={"rdx": masked(cr0, 0xFFFF)})
    if form == "smsw_memory":
        stored = int.from_bytes(exit.memory["operand"], "little")
        assert l1.expect("the word stored", stored, cr0 & 0xFFFF, width_bytes=2)


def _msw_guest(l1, form, mode):
    """A guest with CR0.TS set; LMSW's operand (000Dh) sets EM, PE and TS."""
    real = mode == "real16"
    pointer = "bx" if real else "rbx" if mode == "long64" else "ebx"
    code = {
        "smsw_register": "smsw edx",
        "smsw_memory": f"smsw [{pointer}]",
        "lmsw_register": "lmsw dx",
        "lmsw_memory": f"lmsw [{pointer}]",
        "clts": "clts",
    }[form]
    guest = l1.guest(f"nop\nstart: {code}\nend: vmmcall", mode=mode, regs={"rdx": 0xFFFF_000D})
    # Real-mode data lies behind the code, in the segment that starts at 2_0000h.
    page = 0x2_8000 if real else l1.scratch()
    guest.regs["rbx"] = 0x8000 if real else page
    guest.write(page, bytes([0x0D, 0]))
    guest.vmcb["cr0"] |= 8
    return guest, page
