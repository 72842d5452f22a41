"""Vmcb: reading and writing by name, differences, and what a value means in words."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.svm import FIELDS, VMCB_SIZE, Clean, Vmcb, clean_bits_for, describe, diff, field
from harness.svm.fields import WHOLE_FIELDS

NAMES = [item.name for item in FIELDS]


@given(st.sampled_from(FIELDS), st.data())
def test_what_is_set_is_got_and_nothing_else_changes(item, data):
    value = data.draw(st.integers(0, item.max))
    fill = data.draw(st.sampled_from([0x00, 0xFF, 0xA5]))
    vmcb = Vmcb(bytes([fill]) * VMCB_SIZE)

    vmcb[item.name] = value

    whole = int.from_bytes(vmcb.data, "little")
    fill_page = int.from_bytes(bytes([fill]) * VMCB_SIZE, "little")
    assert vmcb[item.name] == value
    assert (whole ^ fill_page) & ~(item.mask << 8 * item.offset) == 0


def test_bytes_are_little_endian():
    vmcb = Vmcb(fields={"rip": 0x1122_3344_5566_7788})

    assert vmcb.data[0x578:0x580] == bytes.fromhex("8877665544332211")


def test_sub_fields_and_whole_agree():
    vmcb = Vmcb(fields={"v_tpr": 0xF, "v_irq": 1, "v_intr_prio": 0xA, "v_intr_masking": 1, "v_intr_vector": 0x55})

    assert vmcb["vintr"] == 0x55_010A_010F


@pytest.mark.parametrize(("name", "value"), [("asid", 1 << 32), ("v_irq", 2), ("cpl", -1), ("cs.attrib", 0x1_0000)])
def test_value_that_does_not_fit_is_refused(name, value):
    vmcb = Vmcb()

    with pytest.raises(ValueError, match="does not fit"):
        vmcb[name] = value

    assert vmcb == Vmcb()


def test_unknown_field_names_its_neighbours():
    with pytest.raises(KeyError, match=r"rflags"):
        Vmcb()["rflag"]


def test_unknown_intercept_names_its_neighbours():
    with pytest.raises(KeyError, match=r"cpuid"):
        Vmcb().intercept("cpu_id")


@pytest.mark.parametrize("size", [0, VMCB_SIZE - 1, VMCB_SIZE + 1])
def test_image_must_be_a_page(size):
    with pytest.raises(ValueError, match="4096"):
        Vmcb(bytes(size))


def test_copy_is_independent():
    vmcb = Vmcb()
    other = vmcb.copy()

    other["asid"] = 7

    assert vmcb["asid"] == 0


def test_data_given_is_copied():
    data = bytearray(VMCB_SIZE)
    vmcb = Vmcb(data)

    data[0x58] = 9

    assert vmcb["asid"] == 0


def test_intercepts_by_name():
    vmcb = Vmcb()

    vmcb.intercept("cpuid", "#UD")
    vmcb.intercept("hlt")
    vmcb.intercept("hlt", on=False)

    assert vmcb["intercept_misc1"] == 1 << 18
    assert vmcb["intercept_exceptions"] == 1 << 6
    assert vmcb.intercepts("cpuid") and vmcb.intercepts("exc_6") and not vmcb.intercepts("hlt")


def test_get_bytes():
    vmcb = Vmcb()
    vmcb.data[0xD1:0xE0] = bytes(range(15))

    assert vmcb.get_bytes("insn_bytes") == bytes(range(15))


def test_diff_of_equal_images_is_empty():
    assert diff(Vmcb(), Vmcb()) == []


def test_diff_names_fields_in_page_order_and_ranges_of_unnamed_bytes():
    before, after = Vmcb(), Vmcb(fields={"cr2": 5, "v_irq": 1})
    after.data[0x20:0x22] = b"\1\2"
    after.data[0x23] = 3

    changes = diff(before, after)

    assert [(c.name, c.before, c.after) for c in changes] == [
        ("reserved 020h..021h", 0, 0x0201),
        ("reserved 023h..023h", 0, 3),
        ("vintr", 0, 0x100),
        ("cr2", 0, 5),
    ]
    assert changes[2].field is field("vintr")


@given(st.integers(0, 8 * VMCB_SIZE - 1))
def test_one_flipped_bit_is_one_change(number):
    before = Vmcb(random.Random(1).randbytes(VMCB_SIZE))
    after = before.copy()
    after.data[number // 8] ^= 1 << number % 8

    changes = diff(before, after)

    assert len(changes) == 1
    assert changes[0].offset <= number // 8 < changes[0].offset + changes[0].width_bytes
    assert changes[0].before ^ changes[0].after == 1 << number - 8 * changes[0].offset


def test_change_reads_well():
    [change] = diff(Vmcb(), Vmcb(fields={"v_irq": 1}))

    assert str(change) == "vintr: 00000000_00000000h -> 00000000_00000100h (0 -> V_IRQ)"


def test_clean_bits_for():
    assert clean_bits_for(["cr0", "rip", "v_irq"]) == 1 << Clean.CRX | 1 << Clean.TPR


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("rflags", 0x10246, "bit1 PF ZF IF RF"),
        ("rflags", 1 << 63 | 2, "bit1 reserved bits 63"),
        ("cr0", 0x8000_0031, "PE ET NE PG"),
        ("cr4", 0x20 | 1 << 13, "PAE reserved bits 13"),
        ("efer", 0x1500, "LME LMA SVME"),
        ("efer", 0, "0"),
        ("eventinj", 0x8000_030E | 1 << 11 | 2 << 32,
         "VECTOR=Eh TYPE=3(exception) EV V=1 ERRORCODE=2h: exception #PF [2h]"),
        ("eventinj", 0, "VECTOR=0h TYPE=0(INTR) V=0 ERRORCODE=0h: no event"),
        ("exitintinfo", 0x8000_0450,
         "VECTOR=50h TYPE=4(software interrupt) V=1 ERRORCODE=0h: software interrupt vector 80"),
        ("exitcode", 0x72, "CPUID (72h)"),
        ("exitcode", 0xFFFF_FFFF_FFFF_FFFF, "INVALID (FFFFFFFF_FFFFFFFFh)"),
        ("exitcode", 0xFFFF_FFFF, "unknown exit FFFFFFFFh"),
        ("cs.attrib", 0xA9B, "TYPE=11 S DPL=0 P L G"),
        ("clean", 0x21, "INTERCEPTS CRX"),
        ("tlb_control", 0, "TLB_CONTROL=0h(nothing)"),
        ("tlb_control", 1, "TLB_CONTROL=1h(flush everything)"),
        ("tlb_control", 2, "TLB_CONTROL=2h"),
        ("tlb_control", 3, "TLB_CONTROL=3h(flush this ASID)"),
        ("tlb_control", 7, "TLB_CONTROL=7h(flush this ASID's non-globals)"),
        ("erap_control", 3, "ALLOW_LARGER_RAP CLEAR_RAP"),
        ("avic_physical_table", 0x12345_00F, "MAX_INDEX=Fh TABLE>>12=12345h"),
        ("cpl", 3, "CPL=3"),
        ("idtr.limit", 0x1FFFF, "LIMIT=FFFFh reserved bits 16"),
        ("g_pat", 0x0007_0406_0105_0406,
         "PA0=6h(WB) PA1=4h(WT) PA2=5h(WP) PA3=1h(WC) PA4=6h(WB) PA5=4h(WT) PA6=7h(UC-) PA7=0h(UC)"),
        ("dr6", 0xFFFF_4FF0 | 1, "B0 ones11:4=FFh BS ones31:16=FFFFh"),
        ("spec_ctrl", 0x87, "IBRS STIBP SSBD PSFD"),
        ("dbgctl", 3, "LBR BTF"),
        ("s_cet", 3, "SH_STK_EN WR_SHSTK_EN"),
        ("intercept_misc1", 1 << 18 | 1, "INTR CPUID"),
        ("v_irq", 1, "virtual interrupt pending: yes"),
        ("dr7", 0x400 | 2 << 16 | 1, "L0 bit10 RW0=2(I/O)"),
        ("np_control", 1 | 1 << 20, "NP_ENABLE reserved bits 20"),
        ("rip", 0x1000, ""),
    ],
)  # fmt: skip
def test_describe(name, value, text):
    assert describe(name, value) == text


@given(st.sampled_from(NAMES), st.integers(0, (1 << 64) - 1))
def test_describe_never_fails(name, value):
    assert isinstance(describe(name, value & field(name).max), str)


def test_equality_and_repr():
    assert Vmcb(fields={"asid": 1}) == Vmcb(fields={"asid": 1}) != Vmcb()
    assert Vmcb() != b""
    assert "1 fields not 0" in repr(Vmcb(fields={"asid": 1}))


def test_bytes_round_trip():
    vmcb = Vmcb(fields={item.name: item.max // 3 for item in WHOLE_FIELDS})

    assert Vmcb(bytes(vmcb)) == vmcb
