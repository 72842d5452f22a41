"""State that VMRUN does not switch: the general registers, x87, SSE, AVX, XCR0, TSC_AUX, PKRU, DR0 to DR3.

VMRUN loads RAX and RSP and leaves the other general registers, the media registers and some system registers alone,
so that L2 finds L1's values and L1 finds L2's (APM2 15.5.1). An L0 that keeps a register file for L1 and another for
L2, or loads the FPU lazily, loses what was changed on the other side.
"""

import pytest

from harness import VMEXIT, clause

GPRS = ["rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{n}" for n in range(8, 16))]
PATTERNS = {name: 0x0102_0408_1020_4080 * (n + 1) & (1 << 64) - 1 for n, name in enumerate(GPRS)}
ALL = (1 << 64) - 1

PAE, OSFXSR, OSXMMEXCPT, OSXSAVE, PKE = (1 << n for n in (5, 9, 10, 18, 22))
SSE = {"cr4": PAE | OSFXSR | OSXMMEXCPT}
XSAVE = {"cr4": PAE | OSFXSR | OSXMMEXCPT | OSXSAVE}
RESTORE_FPU = "\nfninit\nmov dword ptr [rsi + 0x80], 0x1F80\nldmxcsr [rsi + 0x80]"


@clause("core.load.gprs")
@pytest.mark.parametrize("name", GPRS)
def test_gpr_passes_both_ways(l1, name):
    """L2 inverts one register; it saw L1's value, and L1 sees the inverse, and no other register moved."""
    guest = l1.guest(f"not {name}\nend: vmmcall", regs=PATTERNS)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs=PATTERNS | {name: PATTERNS[name] ^ ALL})


@clause("core.load.gprs")
@pytest.mark.parametrize("mode", ["prot32", "compat32", "real16"])
def test_upper_halves_outlive_32_bit_code(l1, mode):
    """R8 to R15, which such code cannot name, are still there after the exit."""
    guest = l1.guest("nop\nend: vmmcall", mode=mode, regs=PATTERNS)
    high = {name: PATTERNS[name] for name in GPRS if name[1:].isdigit()}

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs=high)


@clause("core.load.fpu_shared")
@pytest.mark.parametrize("n", range(16), ids=lambda n: f"xmm{n}")
def test_xmm(l1, n):
    """L2 stores L1's register and fills it with ones, which L1 then finds."""
    page = l1.scratch()
    value = bytes(range(0x10 * n & 0xF0, (0x10 * n & 0xF0) + 16))
    l1.write(page, value)
    guest = l1.guest(f"movdqu [rdi], xmm{n}\npcmpeqd xmm{n}, xmm{n}\nend: vmmcall", vmcb=SSE, regs={"rdi": page + 16})
    guest.setup(f"movdqu xmm{n}, [rsi]", {"rsi": page})
    guest.teardown(f"movdqu [rsi + 32], xmm{n}", {"rsi": page})

    exit = guest.run(read={"seen": (page + 16, 16), "left": (page + 32, 16)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    for half in (0, 8):
        got, left = (int.from_bytes(exit.memory[name][half : half + 8], "little") for name in ("seen", "left"))
        assert l1.expect(
            f"XMM{n}[{half * 8 + 63}:{half * 8}] in L2", got, int.from_bytes(value[half : half + 8], "little")
        )
        assert l1.expect(f"XMM{n}[{half * 8 + 63}:{half * 8}] in L1 afterwards", left, ALL)


@clause("core.load.fpu_shared")
@pytest.mark.parametrize("n", [0, 7, 15], ids=lambda n: f"ymm{n}")
def test_ymm_upper_half(l1, n):
    """The upper halves are kept apart in the XSAVE area, and so in an L0's mind."""
    l1.need("XSAVE", "AVX")
    page = l1.scratch()
    l1.write(page, bytes(range(0x40, 0x60)))
    guest = l1.guest(
        f"vmovdqu [rdi], ymm{n}\nvpxor xmm{n}, xmm{n}, xmm{n}\nend: vmmcall", vmcb=XSAVE, regs={"rdi": page + 32}
    )
    guest.setup(f"vmovdqu ymm{n}, [rsi]", {"rsi": page})
    guest.teardown(f"vmovdqu [rsi + 64], ymm{n}", {"rsi": page})

    exit = guest.run(read={"seen": (page + 48, 16), "left": (page + 80, 16)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert l1.expect("the upper half in L2 is L1's", exit.memory["seen"] == bytes(range(0x50, 0x60)), True)
    assert l1.expect("the upper half in L1 is what L2 left (zero)", exit.memory["left"] == bytes(16), True)


# Name -> L1 before (value at [rsi]), L2 (stores to [rdi], loads from [rdi + 8]), L1 after (stores to [rsi + 64]),
# L1's value, L2's value, size.
MEDIA = {
    "mxcsr": ("ldmxcsr [rsi]", "stmxcsr [rdi]\nldmxcsr [rdi + 8]", "stmxcsr [rsi + 64]", 0x7F80, 0x3F80, 4),
    "x87-control": ("fldcw [rsi]", "fnstcw [rdi]\nfldcw [rdi + 8]", "fnstcw [rsi + 64]", 0x0F7F, 0x077F, 2),
    "x87-st0": (
        "fninit\nfild qword ptr [rsi]",
        "fistp qword ptr [rdi]\nfild qword ptr [rdi + 8]",
        "fistp qword ptr [rsi + 64]",
        0x1234_5678,
        0x5678_1234,
        8,
    ),
    "mm5": (
        "movq mm5, [rsi]",
        "movq [rdi], mm5\nmovq mm5, [rdi + 8]",
        "movq [rsi + 64], mm5",
        0x0123_4567_89AB_CDEF,
        0x1020_3040_5060_7080,
        8,
    ),
}


@clause("core.load.fpu_shared")
@pytest.mark.parametrize("name", MEDIA)
def test_x87_and_mxcsr(l1, name):
    """Control words and registers alike."""
    before, inside, after, ours, theirs, size = MEDIA[name]
    page = l1.scratch()
    l1.write(page, ours.to_bytes(size, "little"))
    l1.write(page + 40, theirs.to_bytes(size, "little"))
    guest = l1.guest(f"{inside}\nend: vmmcall", vmcb=SSE, regs={"rdi": page + 32})
    guest.setup(before, {"rsi": page})
    guest.teardown(after + RESTORE_FPU, {"rsi": page})

    exit = guest.run(read={"seen": (page + 32, size), "left": (page + 64, size)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    assert l1.expect(f"{name} in L2", int.from_bytes(exit.memory["seen"], "little"), ours, width_bytes=size)
    assert l1.expect(
        f"{name} in L1 afterwards", int.from_bytes(exit.memory["left"], "little"), theirs, width_bytes=size
    )


XGETBV = "xor ecx, ecx\nxgetbv\nmov ebx, eax"


@clause("core.load.xcr0_shared")
@pytest.mark.parametrize(("ours", "theirs"), [(3, 1), (1, 3)], ids=["sse-to-x87", "x87-to-sse"])
def test_xcr0(l1, ours, theirs):
    """XSETBV, which L1 does not intercept, changes L1's XCR0 too."""
    own = l1.host_state()["XCR0"]
    xsetbv = "xor ecx, ecx\nxor edx, edx\nmov eax, {}\nxsetbv"
    guest = l1.guest(f"{XGETBV}\n{xsetbv.format(theirs)}\nend: vmmcall", vmcb=XSAVE)
    guest.setup(xsetbv.format(ours))
    guest.teardown(f"{XGETBV}\n{xsetbv.format(own)}")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": ours})
    assert l1.expect("XCR0 in L1 afterwards", exit.teardown.reg("rbx"), theirs)


@clause("core.load.tsc_aux_shared")
def test_tsc_aux(l1):
    """RDMSR and RDTSCP in L2 give L1's value, and L1 finds what L2 wrote."""
    own = l1.rdmsr(0xC000_0103)
    assert own.ok
    wrmsr = "mov ecx, 0xC0000103\nmov eax, {:#x}\nxor edx, edx\nwrmsr"
    inside = (
        f"mov ecx, 0xC0000103\nrdmsr\nmov ebx, eax\nrdtscp\nmov ebp, ecx\n{wrmsr.format(0x5678_9ABC)}\nend: vmmcall"
    )
    guest = l1.guest(inside)
    guest.setup(wrmsr.format(0x1234_5678))
    guest.teardown(f"mov ecx, 0xC0000103\nrdmsr\nmov ebx, eax\n{wrmsr.format(own.value & 0xFFFF_FFFF)}")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0x1234_5678, "rbp": 0x1234_5678})
    assert l1.expect("TSC_AUX in L1 afterwards", exit.teardown.reg("rbx"), 0x5678_9ABC)


@clause("core.load.pkru_shared")
def test_pkru(l1):
    """Keys 14 and 15 are used, which no page has."""
    pke = "mov rax, cr4\nbts rax, 22\nmov cr4, rax\n"
    wrpkru = "xor ecx, ecx\nxor edx, edx\nmov eax, {:#x}\nwrpkru\n"
    rdpkru = "xor ecx, ecx\nrdpkru\nmov ebx, eax\n"
    guest = l1.guest(f"{rdpkru}{wrpkru.format(0x3000_0000)}end: vmmcall", vmcb={"cr4": PAE | PKE})
    guest.setup(pke + wrpkru.format(0xC000_0000))
    guest.teardown(pke + rdpkru + wrpkru.format(0))

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": 0xC000_0000})
    assert l1.expect("PKRU in L1 afterwards", exit.teardown.reg("rbx"), 0x3000_0000, width_bytes=4)


@clause("core.load.debug_addresses_shared")
@pytest.mark.parametrize("n", range(4), ids=lambda n: f"dr{n}")
def test_debug_addresses(l1, n):
    """No breakpoint is enabled, so these are four numbers."""
    ours, theirs = 0x0000_7EDC_BA98_7000 + n, 0xFFFF_8123_4567_8000 + n
    guest = l1.guest(f"mov rbx, dr{n}\nmovabs rax, {theirs:#x}\nmov dr{n}, rax\nend: vmmcall")
    guest.setup(f"mov dr{n}, rax", {"rax": ours})
    guest.teardown(f"mov rbx, dr{n}\nxor eax, eax\nmov dr{n}, rax")

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rbx": ours})
    assert l1.expect(f"DR{n} in L1 afterwards", exit.teardown.reg("rbx"), theirs)
