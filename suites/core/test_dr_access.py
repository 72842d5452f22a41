"""The intercepts of debug register accesses.

Each debug register has a bit for reads and one for writes; all ordinary exceptions of MOV DRn (#UD, #DB of DR7.GD, #GP)
come before the intercept, and what delivers a #DB, VMRUN or #VMEXIT write to DR6 and DR7 is not covered (APM2 15.9,
Table 15-7). An L0 loads debug registers lazily and intercepts them for itself until then: a wrong one shows L1 exits
that it did not ask for, loses those that it asked for once the registers are loaded, or lets L1 see accesses that L2
could not make.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked, unchanged
from suites.lib.event_tables import with_handlers

ALL = {"intercept_dr_read": 0xFFFF, "intercept_dr_write": 0xFFFF}
LEFT_IN = {0: 0x1111_2222_3333_0000, 1: 0x1111_2222_3333_1111, 2: 0x2222_3333, 3: 0x3333_4444_5555_6666}
DR6, DR7 = 0xFFFF_0FF5, 0x700  # B0 and B2; LE and GE: values that arm nothing
CLEAR = "xor eax, eax\nmov dr0, rax\nmov dr1, rax\nmov dr2, rax\nmov dr3, rax"
DE, GD, BD, BS = 1 << 3, 1 << 13, 1 << 13, 1 << 14


def _guest(l1, code, *, mode="long64", **options):
    """A guest that finds known values in its debug registers; those that it shares with L1 are cleared afterwards."""
    guest = l1.guest(f"nop\nstart: {code}\nend: vmmcall", mode=mode, **options)
    guest.vmcb.update({"dr6": DR6, "dr7": DR7} | dict(options.get("vmcb", {})))
    load = "\n".join(f"mov rax, {value:#x}\nmov dr{n}, rax" for n, value in LEFT_IN.items())
    guest.setup(load)
    guest.teardown(CLEAR)
    return guest


def _access(direction, n, *, mode="long64", gpr="rbx"):
    """MOV between DRn and a general register."""
    name = gpr if mode == "long64" else gpr.replace("r", "e", 1)
    return f"mov {name}, dr{n}" if direction == "read" else f"mov dr{n}, {name}"


def _code(direction, n):
    return (VMEXIT.DR0_READ if direction == "read" else VMEXIT.DR0_WRITE) + n


DIRECTIONS = pytest.mark.parametrize("direction", ["read", "write"])
MODES_AND_DRS = [
    pytest.param(mode, n, id=f"{mode}-dr{n}")
    for mode, numbers in (
        ("long64", (0, 1, 2, 3, 6, 7)), ("compat32", (1,)), ("pae32", (2,)), ("prot32", (0, 7)), ("real16", (3, 6)),
    )
    for n in numbers
]  # fmt: skip


@clause("core.dr_access.intercept")
@pytest.mark.parametrize(("mode", "n"), MODES_AND_DRS)
def test_read_exits(l1, mode, n):
    code = _access("read", n, mode=mode, gpr="rsi")
    guest = _guest(l1, code, mode=mode, intercept=[f"dr{n}_read"], regs={"rsi": 0x5AFE})

    assert guest.run().matches(code=VMEXIT.DR0_READ + n, rip=guest["start"], regs={"rsi": 0x5AFE})


@clause("core.dr_access.intercept")
@pytest.mark.parametrize(("mode", "n"), MODES_AND_DRS)
def test_write_exits(l1, mode, n):
    """The value is a legal one that the register does not hold."""
    value = {6: 0xFFFF_0FFA, 7: 0x400}.get(n, 0x5AFE)
    code = _access("write", n, mode=mode, gpr="rsi")
    guest = _guest(l1, code, mode=mode, intercept=[f"dr{n}_write"], regs={"rsi": value})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.DR0_WRITE + n, rip=guest["start"], dr7=unchanged, regs={"rsi": value})
    assert exit.matches(dr6=masked(DR6, 0xF))
    if n < 4:
        assert l1.expect(f"DR{n} was not written", f"DR{n}" in exit.host_changes, False)


def _all_but(word, n):
    fields = dict(ALL)
    fields[word] &= ~(1 << n)
    return fields


@clause("core.dr_access.independent")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 6, 7], ids=lambda n: f"dr{n}")
def test_read_with_all_other_intercepts(l1, n):
    """The near miss: the value arrives."""
    guest = _guest(l1, f"mov r15, dr{n}", vmcb=_all_but("intercept_dr_read", n))
    value = {6: masked(DR6, 0xF), 7: DR7}.get(n, LEFT_IN.get(n))

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"r15": value})


@clause("core.dr_access.independent")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 6, 7], ids=lambda n: f"dr{n}")
def test_write_with_all_other_intercepts(l1, n):
    """The near miss: the value is seen, by L1 in DR0 to DR3 and in the VMCB for DR6 and DR7."""
    value = {6: 0xFFFF_0FFA, 7: 0x600}.get(n, 0x0102_0304_0506_0708 >> n)
    guest = _guest(l1, f"mov dr{n}, r12", vmcb=_all_but("intercept_dr_write", n), regs={"r12": value})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"])
    if n == 6:
        assert exit.matches(dr6=masked(value, 0xF))
    elif n == 7:
        assert exit.matches(dr7=value)
    else:
        assert exit.matches(host={f"DR{n}": value})


@clause("core.dr_access.independent")
@pytest.mark.parametrize("gpr", ["rax", "rsp", "rbp", "r8", "r13"])
def test_value_goes_to_the_register_named(l1, gpr):
    guest = _guest(l1, f"mov {gpr}, dr1")

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={gpr: LEFT_IN[1]})


@clause("core.dr_access.alias_code")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("n", [4, 5], ids=["dr4", "dr5"])
@DIRECTIONS
def test_alias_exits_with_its_own_number(l1, direction, n, mode):
    guest = _guest(l1, _access(direction, n, mode=mode), mode=mode, vmcb=ALL, regs={"rbx": 0x400})

    assert guest.run().matches(code=_code(direction, n), rip=guest["start"], regs={"rbx": 0x400})


@clause("core.dr_access.alias_bit")
@pytest.mark.parametrize("bit", ["own", "other"])
@pytest.mark.parametrize("n", [4, 5], ids=["dr4", "dr5"])
@DIRECTIONS
def test_alias_with_one_bit_of_the_pair(l1, direction, n, bit):
    """The bit of DR4 alone, or of DR6 alone: hardware decides which of them governs."""
    name = f"dr{n if bit == 'own' else n + 2}_{direction}"
    guest = _guest(l1, _access(direction, n), intercept=[name], regs={"rbx": 0x400 if n == 5 else DR6})

    exit = guest.run()

    rip = guest["end"] if exit.code == VMEXIT.VMMCALL else guest["start"]
    assert exit.matches(code=any_of(_code(direction, n), _code(direction, n + 2), VMEXIT.VMMCALL), rip=rip)


@clause("core.dr_access.de_first")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("n", [4, 5], ids=["dr4", "dr5"])
@DIRECTIONS
def test_debug_extensions_make_the_alias_undefined(l1, direction, n, mode):
    guest = _guest(l1, _access(direction, n, mode=mode), mode=mode, vmcb=ALL, regs={"rbx": 0x400})
    guest.vmcb["cr4"] |= DE

    assert guest.run().matches(code=VMEXIT.EXCP_UD, rip=guest["start"])


def _detecting(l1, code):
    return _guest(l1, code, vmcb=ALL | {"dr6": 0xFFFF_0FF0, "dr7": 0x400 | GD}, regs={"rbx": 0x400})


@clause("core.dr_access.gd_first")
@pytest.mark.dirties("DR7.GD was set in L2")
@pytest.mark.parametrize(
    "code",
    ["mov rbx, dr0", "mov dr3, rbx", "mov rbx, dr6", "mov dr7, rbx"],
    ids=["dr0_read", "dr3_write", "dr6_read", "dr7_write"],
)
def test_general_detect_comes_first(l1, code):
    """#DB before the access."""
    guest = _detecting(l1, code)

    assert guest.run().matches(code=VMEXIT.EXCP_DB, rip=guest["start"], regs={"rbx": 0x400})


@clause("core.dr_access.gd_in_dr6")
@pytest.mark.dirties("DR7.GD was set in L2")
@pytest.mark.parametrize("code", ["mov rbx, dr0", "mov dr7, rbx"], ids=["dr0_read", "dr7_write"])
def test_general_detect_shows_in_dr6(l1, code):
    """The DR6 saved is the one that a handler would see."""
    assert _detecting(l1, code).run().matches(code=VMEXIT.EXCP_DB, dr6=masked(BD, BD))


@clause("core.dr_access.cpl_first")
@pytest.mark.parametrize(
    "code",
    ["mov {}, dr0", "mov dr2, {}", "mov {}, dr6", "mov dr7, {}"],
    ids=["dr0_read", "dr2_write", "dr6_read", "dr7_write"],
)
@pytest.mark.parametrize(("mode", "cpl"), [("long64", 3), ("prot32", 1)], ids=["long64-cpl3", "prot32-cpl1"])
def test_less_privileged_code_faults(l1, mode, cpl, code):
    guest = _guest(l1, code.format("rbx" if mode == "long64" else "ebx"), mode=mode, cpl=cpl, vmcb=ALL)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0)


@clause("core.dr_access.illegal_value")
@pytest.mark.parametrize("n", [6, 7], ids=["dr6", "dr7"])
@pytest.mark.parametrize("bit", [32, 63], ids=["bit32", "bit63"])
def test_upper_half(l1, bit, n):
    """#GP or the exit; the register keeps its value."""
    guest = _guest(l1, f"mov dr{n}, rbx", intercept=[f"dr{n}_write"], regs={"rbx": 0x400 | 1 << bit})

    exit = guest.run()

    code = any_of(VMEXIT.EXCP_GP, VMEXIT.DR0_WRITE + n)
    assert exit.matches(code=code, rip=guest["start"], dr6=masked(DR6, 0xF), dr7=unchanged)


@clause("core.dr_access.no_such_register")
@pytest.mark.parametrize("all_bits", [False, True], ids=["no_intercepts", "all_intercepts"])
@pytest.mark.parametrize("n", [8, 13], ids=["dr8", "dr13"])
@DIRECTIONS
def test_no_such_register(l1, direction, n, all_bits):
    opcode = 0x21 if direction == "read" else 0x23
    code = f".byte 0x44, 0x0f, {opcode}, {0xC3 | (n & 7) << 3}"  # RBX
    guest = _guest(l1, code, vmcb=ALL if all_bits else {}, regs={"rbx": 0x400})
    expected = any_of(VMEXIT.EXCP_UD, _code(direction, n)) if all_bits else VMEXIT.EXCP_UD

    assert guest.run().matches(code=expected, rip=guest["start"], regs={"rbx": 0x400})


@clause("core.dr_access.implicit_not_intercepted")
@pytest.mark.parametrize("mode", ["long64", "prot32", "real16"])
def test_vmrun_and_exit_are_not_intercepted(l1, mode):
    guest = _guest(l1, "nop", mode=mode, vmcb=ALL)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], dr7=unchanged, dr6=masked(DR6, 0xF))


@clause("core.dr_access.implicit_not_intercepted")
def test_delivery_of_debug_exception_is_not_intercepted(l1):
    """L2 single-steps itself: the trap writes DR6 and reaches L2's handler, all DR intercepts notwithstanding."""
    guest = l1.guest("nop\nnop\nvmmcall\nhandler: vmmcall", no_intercept=["#DB"])
    with_handlers(l1, guest, guest["handler"], vectors=32)
    guest.vmcb.update(ALL)
    guest.vmcb["rflags"] |= 1 << 8

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["handler"], dr6=masked(BS, BS))


@clause("core.dr_access.lazy_switch")
@pytest.mark.parametrize("first", ["read", "write"])
def test_intercept_bit_of_this_run_decides(l1, first):
    """DR2 is used freely, then intercepted, then used again; each run is judged by its own bits."""
    guest = _guest(l1, f"{_access(first, 2)}\nmov rsi, dr2", regs={"rbx": LEFT_IN[2]})

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rsi": LEFT_IN[2]})
    for on in (True, False, True):
        guest.vmcb["rip"] = guest["start"]
        guest.vmcb.intercept(f"dr2_{first}", on=on)
        exit = guest.run()
        if on:
            assert exit.matches(code=_code(first, 2), rip=guest["start"], regs={"rsi": unchanged})
        else:
            assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["end"], regs={"rsi": LEFT_IN[2]})
