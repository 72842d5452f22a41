"""MSR numbers and the two permission maps."""

import pytest

from harness.svm import MSR, describe_msr, iopm, msr_name, msrpm
from harness.svm.msr import iopm_position, msrpm_position


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (0, (0, 0)), (0x10, (4, 0)), (0x1FFF, (0x7FF, 6)), (0x2000, None), (0xC000_0000, (0x800, 0)),
        (MSR.EFER, (0x820, 0)), (MSR.STAR, (0x820, 2)), (0xC000_1FFF, (0xFFF, 6)), (0xC000_2000, None),
        (0xC001_0000, (0x1000, 0)), (MSR.VM_CR, (0x1045, 0)), (0xC001_1FFF, (0x17FF, 6)), (0xFFFF_FFFF, None),
    ],
)  # fmt: skip
def test_place_in_the_msr_map(number, place):
    assert msrpm_position(number) == place


def test_msr_map_has_a_read_and_a_write_bit():
    image = msrpm(reads=(MSR.EFER,), writes=(MSR.STAR,))

    assert len(image) == 0x2000
    assert image[0x820] == 0b1001
    assert sum(image) == 0b1001


def test_msr_outside_the_map_is_refused():
    with pytest.raises(ValueError, match="always intercepted"):
        msrpm(reads=(0x4000_0000,))


@pytest.mark.parametrize(
    ("port", "place"), [(0, (0, 0)), (0x3F8, (0x7F, 0)), (0xFFFF, (0x1FFF, 7)), (0x1_0002, (0x2000, 2))]
)
def test_place_in_the_io_map(port, place):
    assert iopm_position(port) == place
    assert iopm((port,))[place[0]] == 1 << place[1]


def test_io_map_is_three_pages():
    assert iopm() == bytes(0x3000)
    with pytest.raises(ValueError, match="no bit"):
        iopm((0x1_0003,))


def test_names_and_values():
    assert msr_name(0xC000_0080) == "EFER (C0000080h)"
    assert msr_name(0x1234) == "MSR 00001234h"
    assert describe_msr(MSR.VM_CR, 0x18) == "LOCK SVMDIS"
    assert describe_msr(MSR.EFER, 0x1000) == "SVME"
    assert describe_msr(0x1234, 1) == ""
