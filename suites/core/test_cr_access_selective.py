"""The selective CR0 write intercept.

It lets an L1 see the writes to CR0 that matter without those that only set TS or MP, as an operating system does at
each task switch: MOV CR0 exits with 65h only if another bit changes; LMSW exits always, CLTS never; with the ordinary
intercept set too the exit is the ordinary one (APM2 15.9, Table 15-7). KVM has been wrong here more than once:
changes went past L1, or LMSW was compared bit by bit.
"""

import pytest

from harness import VMEXIT, clause, unchanged

TS, MP, EM, NE, WP, AM, NW, CD = 1 << 3, 1 << 1, 1 << 2, 1 << 5, 1 << 16, 1 << 18, 1 << 29, 1 << 30
MODES = ["long64", "compat32", "prot32", "real16"]


def _write(l1, flip, mode="long64", *, cr0_set=0, intercept=("cr0_sel",)):
    """A guest that writes CR0 with some bits inverted; `cr0_set` is set in CR0 before."""
    gpr = "rbx" if mode == "long64" else "ebx"
    guest = l1.guest(f"nop\nstart: mov cr0, {gpr}\nend: vmmcall", mode=mode, intercept=intercept)
    guest.vmcb["cr0"] |= cr0_set
    guest.regs["rbx"] = guest.vmcb["cr0"] ^ flip
    return guest


@clause("core.cr_access.selective")
@pytest.mark.parametrize(
    ("mode", "flip"),
    [
        pytest.param(mode, flip, id=f"{mode}-{name}")
        for name, flip, modes in (
            ("em", EM, ["long64"]),
            ("ne", NE, ["long64"]),
            ("wp", WP, ["long64", "prot32"]),
            ("am", AM, MODES),
            ("cd", CD, ["long64", "real16"]),
            ("cd_nw", CD | NW, ["long64"]),
            ("ts_am", TS | AM, ["long64"]),
            ("mp_am", MP | AM, ["long64"]),
            ("ts_mp_am", TS | MP | AM, MODES),
        )
        for mode in modes
    ],
)
def test_change_exits(l1, mode, flip):
    """CR0 is as it was, and the register still holds what was to be written."""
    guest = _write(l1, flip, mode)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"], cr0=unchanged, regs={"rbx": unchanged})


@clause("core.cr_access.selective")
@pytest.mark.parametrize(
    ("mode", "flip"),
    [("real16", 1), ("prot32", 1), ("paged32", 1 << 31), ("pae32", 1 << 31)],
    ids=["pe_set", "pe_cleared", "pg_cleared", "pg_cleared_pae"],
)
def test_change_of_mode_exits(l1, mode, flip):
    guest = _write(l1, flip, mode)

    assert guest.run().matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.selective")
@pytest.mark.parametrize("bit", [EM, WP, AM], ids=["em", "wp", "am"])
def test_clearing_exits(l1, bit):
    """A bit that is 1 and becomes 0."""
    guest = _write(l1, bit, cr0_set=bit)

    assert guest.run().matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.selective")
@pytest.mark.parametrize("mode", ["long64", "real16"])
@pytest.mark.parametrize("flip", [0, TS, MP, TS | MP], ids=["same_value", "ts", "mp", "ts_mp"])
@pytest.mark.parametrize("before", [0, TS | MP], ids=["from_clear", "from_set"])
def test_no_exit_for_ts_and_mp(l1, before, flip, mode):
    """The near miss: the write is carried out."""
    guest = _write(l1, flip, mode, cr0_set=before)

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr0=guest.regs["rbx"])


@clause("core.cr_access.selective_yields")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize("flip", [0, TS, AM], ids=["same_value", "ts", "am"])
def test_ordinary_intercept_wins(l1, flip, mode):
    guest = _write(l1, flip, mode, intercept=["cr0_sel", "cr0_write"])

    assert guest.run().matches(code=VMEXIT.CR0_WRITE, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.selective_yields")
@pytest.mark.parametrize("code", ["lmsw bx", "clts"], ids=["lmsw", "clts"])
def test_ordinary_intercept_wins_for_lmsw_and_clts(l1, code):
    guest = l1.guest(f"nop\nstart: {code}\nvmmcall", intercept=["cr0_sel", "cr0_write"], regs={"rbx": 5})
    guest.vmcb["cr0"] |= TS

    assert guest.run().matches(code=VMEXIT.CR0_WRITE, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.selective_lmsw")
@pytest.mark.parametrize(
    ("form", "mode"),
    [("register", "long64"), ("register", "prot32"), ("memory", "long64")],
    ids=["reg", "reg32", "mem"],
)
@pytest.mark.parametrize("value", [1, 1 | TS, 1 | MP, 1 | EM], ids=["same_value", "ts", "mp", "em"])
def test_lmsw_exits_always(l1, value, form, mode):
    """PE is 1 before, the other three are 0."""
    pointer = "rsi" if mode == "long64" else "esi"
    operand = "bx" if form == "register" else f"[{pointer}]"
    guest = l1.guest(f"nop\nstart: lmsw {operand}\nvmmcall", mode=mode, intercept=["cr0_sel"])
    guest.regs.update({"rbx": value, "rsi": l1.scratch()})
    guest.write(guest.regs["rsi"], value.to_bytes(2, "little"))

    assert guest.run().matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.selective_lmsw")
def test_lmsw_exits_in_real_mode(l1):
    """The value that is there; PE is 0 before."""
    guest = l1.guest("smsw ax\nstart: lmsw ax\nend: vmmcall", mode="real16", intercept=["cr0_sel"])

    assert guest.run().matches(code=VMEXIT.CR0_SEL_WRITE, rip=guest["start"], cr0=unchanged)


@clause("core.cr_access.selective_not_clts")
@pytest.mark.parametrize("mode", ["long64", "real16"])
@pytest.mark.parametrize("ts", [0, TS], ids=["ts_clear", "ts_set"])
def test_clts_does_not_exit(l1, ts, mode):
    guest = l1.guest("clts\nend: vmmcall", mode=mode, intercept=["cr0_sel"])
    cr0 = guest.vmcb["cr0"]
    guest.vmcb["cr0"] = cr0 | ts

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"], cr0=cr0)


@clause("core.cr_access.selective_only_cr0_writes")
@pytest.mark.parametrize(
    "code",
    [
        "mov rdx, cr0",
        "smsw edx",
        "smsw [rsi]",
        "mov rdx, cr3\nmov cr3, rdx",
        "mov rdx, cr4\nmov cr4, rdx",
        "mov rdx, cr2\nmov cr2, rdx",
    ],
    ids=["mov_from_cr0", "smsw", "smsw_memory", "cr3", "cr4", "cr2"],
)
def test_other_accesses_do_not_exit(l1, code):
    guest = l1.guest(f"{code}\nend: vmmcall", intercept=["cr0_sel"])
    guest.regs["rsi"] = l1.scratch()

    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["end"])
