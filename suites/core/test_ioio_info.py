"""What an I/O exit tells L1.

EXITINFO1 names port, direction, size and form, EXITINFO2 the address of the next instruction, so that L1 need not
decode anything; RIP is at the first prefix and nothing has happened yet (APM2 15.10.2). An L1 emulates devices from
these words alone: an L0 that reports the size of the wrong operand, or forgets a prefix in the length, makes L1 write
wrong bytes into L2 or resume in the middle of an instruction.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked, unchanged
from harness.svm import ioio_info

PORT = 0x1230
# TYPE, the sizes and the port; for string forms STR and REP as well, and the address size.
PLAIN, STRING, ADDRESS = 0xFFFF_0075, 0xFFFF_007D, 0x380

# Code, port, bytes, IN. Immediate forms use E0h, which nothing answers to.
PLAIN_FORMS = {
    "in_al_imm": ("in al, 0xE0", 0xE0, 1, True),
    "in_ax_imm": ("in ax, 0xE0", 0xE0, 2, True),
    "in_eax_imm": ("in eax, 0xE0", 0xE0, 4, True),
    "in_al_dx": ("in al, dx", PORT, 1, True),
    "in_ax_dx": ("in ax, dx", PORT, 2, True),
    "in_eax_dx": ("in eax, dx", PORT, 4, True),
    "out_al_imm": ("out 0xE0, al", 0xE0, 1, False),
    "out_ax_imm": ("out 0xE0, ax", 0xE0, 2, False),
    "out_eax_imm": ("out 0xE0, eax", 0xE0, 4, False),
    "out_al_dx": ("out dx, al", PORT, 1, False),
    "out_ax_dx": ("out dx, ax", PORT, 2, False),
    "out_eax_dx": ("out dx, eax", PORT, 4, False),
    "in_al_data16": (".byte 0x66, 0xEC", PORT, 1, True),
}
REX_FORMS = {
    "rexw_in_eax_dx": (".byte 0x48, 0xED", PORT, 4, True),
    "rexw_out_imm_eax": (".byte 0x48, 0xE7, 0xE0", 0xE0, 4, False),
    "rexw_in_al_dx": (".byte 0x48, 0xEC", PORT, 1, True),
}
# Code, bytes, IN, REP.
STRING_FORMS = {
    "insb": ("insb", 1, True, False),
    "insw": ("insw", 2, True, False),
    "insd": ("insd", 4, True, False),
    "outsb": ("outsb", 1, False, False),
    "outsw": ("outsw", 2, False, False),
    "outsd": ("outsd", 4, False, False),
    "rep_insb": ("rep insb", 1, True, True),
    "rep_insw": ("rep insw", 2, True, True),
    "rep_insd": ("rep insd", 4, True, True),
    "rep_outsb": ("rep outsb", 1, False, True),
    "rep_outsw": ("rep outsw", 2, False, True),
    "rep_outsd": ("rep outsd", 4, False, True),
}
REX_STRING_FORMS = {
    "rexw_insd": (".byte 0x48, 0x6D", 4, True, False),
    "rexw_rep_outsd": (".byte 0xF3, 0x48, 0x6F", 4, False, True),
    "fs_addr32_rep_outsw": (".byte 0x64, 0x67, 0x66, 0xF3, 0x6F", 2, False, True),
}
ADDRESS_BITS = {"long64": 64, "compat32": 32, "prot32": 32, "real16": 16}


def _guest(l1, code, mode="long64"):
    """A guest whose every port is intercepted; the string operands lie in a page of their own."""
    registers = {"rdx": 0xFFFF_0000 | PORT, "rcx": 5}
    guest = l1.guest(f"nop\nstart: {code}\nbehind: vmmcall", mode=mode, intercept=["ioio"], regs=registers)
    maps = l1.scratch(3)
    l1.fill(maps, 0x3000, 0xFF)
    guest.vmcb["iopm_base_pa"] = maps
    guest.regs["rsi"] = guest.regs["rdi"] = 0x8000 if mode == "real16" else l1.scratch()
    return guest


SAME = dict.fromkeys(("rcx", "rdx", "rsi", "rdi", "rbx"), unchanged)


def _cases(table, modes):
    return [pytest.param(mode, *table[name], id=f"{mode}-{name}") for mode in modes for name in table]


def _some(table, names, modes):
    return _cases({name: table[name] for name in names}, modes)


@clause("core.ioio.info1", "core.ioio.info2")
@pytest.mark.parametrize(
    ("mode", "code", "port", "size", "is_in"),
    [
        *_cases(PLAIN_FORMS | REX_FORMS, ["long64"]),
        *_some(PLAIN_FORMS, ["in_al_imm", "in_eax_dx", "out_ax_dx"], ["compat32", "prot32"]),
        *_some(PLAIN_FORMS, ["in_al_dx", "in_ax_imm", "in_eax_dx", "out_ax_dx", "out_eax_imm"], ["real16"]),
    ],
)
def test_in_and_out(l1, mode, code, port, size, is_in):
    guest = _guest(l1, code, mode)
    info1 = masked(ioio_info(port, size, is_in=is_in), PLAIN)

    exit = guest.run()

    assert exit.matches(
        code=VMEXIT.IOIO, rip=guest["start"], info1=info1, info2=guest["behind"], rax=unchanged, regs=SAME
    )


@clause("core.ioio.info1", "core.ioio.info2")
@pytest.mark.parametrize(
    ("mode", "code", "size", "is_in", "rep"),
    [
        *_cases(STRING_FORMS | REX_STRING_FORMS, ["long64"]),
        *_some(STRING_FORMS, ["insw", "rep_outsb"], ["compat32", "prot32"]),
        *_some(STRING_FORMS, ["insb", "outsw", "rep_insd"], ["real16"]),
    ],
)
def test_ins_and_outs(l1, mode, code, size, is_in, rep):
    guest = _guest(l1, code, mode)
    info1 = masked(ioio_info(PORT, size, is_in=is_in, string=True, rep=rep), STRING)

    exit = guest.run()

    assert exit.matches(
        code=VMEXIT.IOIO, rip=guest["start"], info1=info1, info2=guest["behind"], rax=unchanged, regs=SAME
    )


@clause("core.ioio.info1_address_size")
@pytest.mark.parametrize("prefix", [False, True], ids=["default", "prefix67"])
@pytest.mark.parametrize(
    ("mode", "opcode"),
    [
        pytest.param(mode, opcode, id=f"{mode}-{name}")
        for mode, opcode, name in (
            ("long64", 0x6C, "insb"),
            ("long64", 0x6F, "outs"),
            ("compat32", 0x6C, "insb"),
            ("prot32", 0x6F, "outs"),
            ("real16", 0x6C, "insb"),
        )
    ],
)
def test_address_size(l1, mode, opcode, prefix):
    """Prefix 67h makes 64 bits 32, 32 bits 16, and 16 bits 32."""
    guest = _guest(l1, f".byte {'0x67, ' if prefix else ''}{opcode:#x}", mode)
    bits = {64: 32, 32: 16, 16: 32}[ADDRESS_BITS[mode]] if prefix else ADDRESS_BITS[mode]
    flag = {16: 1 << 7, 32: 1 << 8, 64: 1 << 9}[bits]

    assert guest.run().matches(code=VMEXIT.IOIO, rip=guest["start"], info1=masked(flag, ADDRESS))


@clause("core.ioio.info1_segment")
@pytest.mark.parametrize(
    ("code", "segment"),
    [("outsb", 3), (".byte 0x64, 0x6E", 4), (".byte 0x65, 0x6E", 5), (".byte 0x64, 0x6C", 0)],
    ids=["outsb", "fs_outsb", "gs_outsb", "fs_insb"],
)
def test_segment(l1, code, segment):
    """The effective segment, or 0 on a processor without this field."""
    guest = _guest(l1, code)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.IOIO, rip=guest["start"])
    assert l1.expect("EXITINFO1[12:10] (SEG)", exit.info1 >> 10 & 7, any_of(segment, 0), width_bytes=1)


@clause("core.ioio.nrip")
@pytest.mark.parametrize(
    "code",
    ["in al, 0xE0", "out dx, eax", "insb", ".byte 0x64, 0x67, 0x66, 0xF3, 0x6F"],
    ids=["in", "out", "insb", "prefixed_rep_outsw"],
)
def test_next_rip(l1, code):
    """The same address in nRIP as in EXITINFO2."""
    guest = _guest(l1, code)

    assert guest.run().matches(code=VMEXIT.IOIO, info2=guest["behind"], nrip=guest["behind"])


@clause("core.ioio.rep_iteration")
@pytest.mark.parametrize("mode", ["long64", "prot32"])
@pytest.mark.parametrize(("code", "size", "pointer"), [("insw", 2, "rdi"), ("outsb", 1, "rsi")], ids=["insw", "outsb"])
def test_rep_exits_before_the_element(l1, code, size, pointer, mode):
    """Exit, the same exit again, and with the intercept off all five elements."""
    guest = _guest(l1, f"rep {code}", mode)
    before = guest.regs[pointer]

    for _ in range(2):
        assert guest.run().matches(code=VMEXIT.IOIO, rip=guest["start"], regs={"rcx": 5, pointer: before})
    guest.vmcb.intercept("ioio", on=False)

    after = {"rcx": 0, pointer: before + 5 * size}
    assert guest.run().matches(code=VMEXIT.VMMCALL, rip=guest["behind"], regs=after)


@clause("core.ioio.rep_zero")
@pytest.mark.parametrize("code", ["rep insb", "rep outsb"], ids=["rep_insb", "rep_outsb"])
def test_rep_with_count_zero(l1, code):
    """No element: hardware decides whether the intercept is looked at."""
    guest = _guest(l1, code)
    guest.regs["rcx"] = 0

    exit = guest.run()

    rip = guest["start"] if exit.code == VMEXIT.IOIO else guest["behind"]
    assert exit.matches(code=any_of(VMEXIT.VMMCALL, VMEXIT.IOIO), rip=rip, regs=SAME)
