"""Names of bits to take away from L1: in the APM's spelling, refused where they mean nothing."""

from __future__ import annotations

import pytest

from harness.machine.feature_mask import QEMU_NAMES, MaskError, edx_mask, parse, qemu_cpu
from harness.svm.features import SVM_BITS


def test_names_are_read_in_any_case_and_by_their_aliases() -> None:
    assert parse("nrips, VmcbClean,NripSave") == ("NRIPS", "VmcbClean")
    assert parse("") == ()


def test_a_wrong_name_is_one_line_with_the_right_ones() -> None:
    with pytest.raises(MaskError, match=r"'nrip'; .*NRIPS") as error:
        parse("nrip")
    assert "\n" not in str(error.value)


def test_the_mask_has_each_bit_in_its_place() -> None:
    assert edx_mask(["NP", "NRIPS", "DecodeAssists"]) == 0x89
    assert edx_mask([]) == 0


def test_qemu_is_told_by_its_own_property_names() -> None:
    assert qemu_cpu("max,+svm", ["NP", "VGIF"]) == "max,+svm,-npt,-vgif"
    with pytest.raises(MaskError, match="no CPU property for GMET"):
        qemu_cpu("max", ["GMET"])


def test_every_qemu_name_belongs_to_a_bit_that_exists() -> None:
    assert set(QEMU_NAMES) <= {bit.name for bit in SVM_BITS}
