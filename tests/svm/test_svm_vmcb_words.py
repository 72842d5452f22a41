"""A VMCB in words: each field, each bit and each intercept that differs has its name."""

from __future__ import annotations

from harness.svm import Vmcb, make_template
from harness.svm.vmcb_words import differences, intercepts, whole


def image(**fields: int) -> Vmcb:
    vmcb = make_template("long64", rip=0x1000, rsp=0x2000, iopm_pa=0x810000, msrpm_pa=0x814000, cr3=0x3000)
    vmcb.update({name.replace("__", "."): value for name, value in fields.items()})
    return vmcb


def test_nothing_differs() -> None:
    assert differences(image(), image()) == []
    assert intercepts(image(), image()) == []


def test_the_low_bits_of_an_address_show() -> None:
    (found,) = differences(image(), image(iopm_base_pa=0x81_0001))

    assert found.name == "iopm_base_pa (040h)"
    assert (found.good, found.now) == ("0000_0000_0081_0000h", "0000_0000_0081_0001h")


def test_bits_by_name() -> None:
    for fields, bits in (
        ({"cr0": image()["cr0"] | 1 << 16}, "+WP"),
        ({"cr0": image()["cr0"] & ~(1 << 31)}, "-PG"),
        ({"cr0": image()["cr0"] | 1 << 32}, "+reserved 32"),
        ({"efer": image()["efer"] & ~(1 << 12)}, "-SVME"),
        ({"v_irq": 1}, "+V_IRQ"),
        ({"cs__attrib": image()["cs.attrib"] | 1 << 10}, "+D/B"),
        ({"tlb_control": 3}, "TLB_CONTROL 1h to 3h"),
        ({"eventinj": 0x8000_0202}, "NMI"),
        ({"asid": 5}, ""),
    ):
        (found,) = differences(image(), image(**fields))
        assert bits in found.bits and bool(bits) == bool(found.bits)


def test_intercepts_by_name() -> None:
    other = image()
    other.intercept("cpuid", "cr3_write")
    other.intercept("#UD", "shutdown", on=False)
    other["intercept_misc3"] |= 1 << 31

    assert intercepts(image(), other) == ["+cr3_write", "-#UD", "+cpuid", "-shutdown", "+misc3[31]"]
    assert [each.name for each in differences(image(), other)] == []


def test_an_output_field_that_was_filled_is_no_difference() -> None:
    blank = Vmcb(image().data)
    blank["exitcode"] = 0x72

    assert differences(blank, image()) == []
    assert [each.name for each in differences(image(), blank)] == ["exitcode (070h)"]


def test_bytes_without_a_field_show() -> None:
    other = image()
    other.data[0x3C0] = 7

    (found,) = differences(image(), other)
    assert found.name == "reserved 3C0h..3C0h" and found.now == "07h"


def test_the_whole_vmcb() -> None:
    rows = {name: (value, meaning) for name, value, meaning in whole(image(exitcode=0x7B, exitinfo1=0x60_0021))}

    assert rows["exitcode (070h)"] == ("0000_0000_0000_007Bh", "IOIO (7Bh)")
    assert "PORT=60h" in rows["exitinfo1 (078h)"][1]
    assert "vmmcall" in rows["intercept_misc2 (010h)"][1]
    assert rows["nrip (0C8h)"][1] == "as it was filled before VMRUN"
    assert "cr2 (640h)" not in rows
    other = image()
    other.data[0x670 + 0x400 : 0x670 + 0x500] = bytes(range(256))
    assert any(len(value) == 512 for _, value, _ in whole(other))
