"""Exit codes, the EXITINFO words, and which of them are defined."""

import pytest

from harness.svm import (
    KNOWN_CODES,
    VMEXIT,
    describe_exitcode,
    describe_exitinfo,
    exit_facts,
    exit_name,
    info1_defined,
    info2_defined,
    ioio_info,
    npf_info,
    nrip_defined,
)
from harness.svm.exits import describe_exception

# name -> code, from the specification's quick table, with its mnemonics turned into member names.
CODES = {
    "CR0_READ": 0x00, "CR15_READ": 0x0F, "CR0_WRITE": 0x10, "CR8_WRITE": 0x18, "DR0_READ": 0x20, "DR7_READ": 0x27,
    "DR0_WRITE": 0x30, "DR15_WRITE": 0x3F, "EXCP_DE": 0x40, "EXCP_DB": 0x41, "EXCP_BP": 0x43, "EXCP_UD": 0x46,
    "EXCP_DF": 0x48, "EXCP_GP": 0x4D, "EXCP_PF": 0x4E, "EXCP_XF": 0x53, "EXCP_CP": 0x55, "EXCP_SX": 0x5E,
    "INTR": 0x60, "NMI": 0x61, "SMI": 0x62, "INIT": 0x63, "VINTR": 0x64, "CR0_SEL_WRITE": 0x65, "SIDT": 0x66,
    "SGDT": 0x67, "SLDT": 0x68, "STR": 0x69, "LIDT": 0x6A, "LGDT": 0x6B, "LLDT": 0x6C, "LTR": 0x6D, "RDTSC": 0x6E,
    "RDPMC": 0x6F, "PUSHF": 0x70, "POPF": 0x71, "CPUID": 0x72, "RSM": 0x73, "IRET": 0x74, "INTN": 0x75,
    "INVD": 0x76, "PAUSE": 0x77, "HLT": 0x78, "INVLPG": 0x79, "INVLPGA": 0x7A, "IOIO": 0x7B, "MSR": 0x7C,
    "TASK_SWITCH": 0x7D, "FERR_FREEZE": 0x7E, "SHUTDOWN": 0x7F, "VMRUN": 0x80, "VMMCALL": 0x81, "VMLOAD": 0x82,
    "VMSAVE": 0x83, "STGI": 0x84, "CLGI": 0x85, "SKINIT": 0x86, "RDTSCP": 0x87, "ICEBP": 0x88, "WBINVD": 0x89,
    "MONITOR": 0x8A, "MWAIT": 0x8B, "MWAIT_ARMED": 0x8C, "XSETBV": 0x8D, "RDPRU": 0x8E, "EFER_WRITE_TRAP": 0x8F,
    "CR0_WRITE_TRAP": 0x90, "CR15_WRITE_TRAP": 0x9F, "INVLPGB": 0xA0, "INVLPGB_ILLEGAL": 0xA1, "INVPCID": 0xA2,
    "MCOMMIT": 0xA3, "TLBSYNC": 0xA4, "BUSLOCK": 0xA5, "IDLE_HLT": 0xA6, "NPF": 0x400, "AVIC_INCOMPLETE_IPI": 0x401,
    "AVIC_NOACCEL": 0x402, "VMGEXIT": 0x403, "INVALID": (1 << 64) - 1, "BUSY": (1 << 64) - 2,
    "IDLE_REQUIRED": (1 << 64) - 3, "INVALID_PMC": (1 << 64) - 4,
}  # fmt: skip


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_code(name, code):
    assert VMEXIT[name] == code
    assert exit_name(code) == name
    assert code in KNOWN_CODES


def test_everything_between_0_and_a6_is_known_and_nothing_else_below_400():
    assert {code for code in KNOWN_CODES if code < 0x400} == set(range(0xA7))


def test_unknown_code():
    assert exit_name(0x1234) == "unknown exit 1234h"
    assert describe_exitcode(0x1234) == "unknown exit 1234h"
    assert not exit_facts(0x1234).info1.defined and not exit_facts(0x1234).nrip


NRIP = {*range(0x40), 0x43, 0x44, 0x45, *range(0x65, 0x7D), *range(0x80, 0x8F), *range(0xA0, 0xA5), 0xA6}


@pytest.mark.parametrize("code", sorted(KNOWN_CODES))
def test_nrip_is_defined_for_instruction_exits_only(code):
    assert nrip_defined(code) == (code in NRIP)
    assert not nrip_defined(code, has=lambda name: False)


@pytest.mark.parametrize("code", [0x60, 0x61, 0x63, 0x64, 0x72, 0x78, 0x81, 0x7F, 0x46, 0x41, 0x48, (1 << 64) - 1])
def test_undefined_words(code):
    assert not info1_defined(code) and not info2_defined(code)


@pytest.mark.parametrize("code", [0x4B, 0x4C, 0x4D, 0x4E, 0x51, 0x55, 0x5E])
def test_error_codes_are_in_info1(code):
    assert info1_defined(code)
    assert info2_defined(code) == (code == 0x4E)


@pytest.mark.parametrize("code", [0x00, 0x13, 0x27, 0x37, 0x75, 0x79])
def test_decode_assists_decide(code):
    assert info1_defined(code, has=lambda name: name == "DecodeAssists")
    assert not info1_defined(code, has=lambda name: False)


@pytest.mark.parametrize(
    ("code", "info1", "info2", "text"),
    [
        (
            0x7B,
            0x0060_0021,
            0x1002,
            "EXITINFO1 00000000_00600021h: TYPE=1(IN) SZ16 SEG=0(ES) PORT=60h; "
            "EXITINFO2 00000000_00001002h: RIP after the instruction",
        ),
        (
            0x400,
            0x2_0000_0006,
            0x5000,
            "EXITINFO1 00000002_00000006h: RW US guest-table; "
            "EXITINFO2 00000000_00005000h: faulting guest physical address",
        ),
        (
            0x4E,
            0x15,
            0x7000,
            "EXITINFO1 00000000_00000015h: error code P US ID; EXITINFO2 00000000_00007000h: faulting linear address",
        ),
        (
            0x7C,
            1,
            0,
            "EXITINFO1 00000000_00000001h: TYPE=1(WRMSR); EXITINFO2 00000000_00000000h (undefined for this exit)",
        ),
        (
            0x13,
            1 << 63 | 9,
            0,
            "EXITINFO1 80000000_00000009h: GPR=9(r9) MOV (where DecodeAssists is offered); "
            "EXITINFO2 00000000_00000000h (undefined for this exit)",
        ),
    ],
)
def test_describe_exitinfo(code, info1, info2, text):
    assert describe_exitinfo(code, info1, info2) == text


def test_ioio_info_puts_the_parts_where_the_apm_says():
    value = ioio_info(0x3F8, 4, is_in=True, string=True, rep=True, address_bits=64, segment=0)

    assert value == 0x03F8_0000 | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9


@pytest.mark.parametrize("bad", [{"size_bytes": 8}, {"address_bits": 8}, {"port": 1 << 16}, {"segment": 6}])
def test_ioio_info_refuses_what_cannot_be(bad):
    arguments = {"port": 0x80, "size_bytes": 1} | bad

    with pytest.raises(ValueError, match="no such"):
        ioio_info(**arguments, is_in=False)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"present": False, "write": False}, 0x1_0000_0004),
        ({"present": True, "write": True}, 0x1_0000_0007),
        ({"present": True, "write": False}, 0x1_0000_0005),
        ({"present": True, "write": False, "fetch": True}, 0x1_0000_0015),
        ({"present": True, "write": False, "rsv": True}, 0x1_0000_000D),
        ({"present": True, "write": True, "table_walk": True}, 0x2_0000_0007),
        ({"present": False, "write": True, "table_walk": True}, 0x2_0000_0006),
        ({"present": True, "write": True, "rsv": True, "table_walk": True}, 0x2_0000_000F),
    ],
)
def test_npf_info_gives_the_quick_tables_values(arguments, value):
    assert npf_info(**arguments) == value


@pytest.mark.parametrize(
    ("vector", "error", "text"),
    [
        (6, None, "#UD"),
        (13, 0, "#GP[0]"),
        (14, 7, "#PF[P RW US]"),
        (11, 0x1A, "#NP[1Ah IDT INDEX=3h]"),
        (17, 0, "#AC[0]"),
    ],
)
def test_describe_exception(vector, error, text):
    assert describe_exception(vector, error) == text


def test_traps():
    assert [code for code in sorted(KNOWN_CODES) if exit_facts(code).trap] == list(range(0x8F, 0xA0))
