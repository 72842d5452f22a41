"""A feature that is lost is a deviation of its own: what was a clause of it is skipped, and a skip is green."""

from __future__ import annotations

import pytest

from harness.judge.baseline import Baseline, BaselineError
from harness.judge.offers import Offers, differences, names, offers_at

NP, NRIPS, VGIF = 1, 1 << 3, 1 << 16
FILE = """
[[offers]]
bits = ["NP", "NripSave"]
versions = "<8"

[[offers]]
bits = ["NP", "NRIPS", "VGIF"]
versions = ">=8"
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(FILE)
    return path


def test_the_first_file_that_speaks_of_the_version_counts(path, tmp_path):
    assert offers_at([tmp_path / "none.toml", path], (7, 2)).edx == NP | NRIPS
    assert offers_at([path], (8,)).edx == NP | NRIPS | VGIF
    assert offers_at([tmp_path / "none.toml"], (8,)) is None
    assert Baseline.load(path, (8,)) == Baseline()


@pytest.mark.parametrize(
    ("edx", "without", "clauses"),
    [
        (NP | NRIPS, (), []),
        (NRIPS, (), ["offers.NP"]),
        (NP | NRIPS | VGIF, (), ["offers.VGIF"]),
        (VGIF, (), ["offers.NP", "offers.NRIPS", "offers.VGIF"]),
        (NP, ("NRIPS",), []),
        (NP | NRIPS, ("NRIPS",), ["offers.NRIPS"]),
        (NP | NRIPS | 1 << 31, (), ["offers.EnhancedShutdownIntercept"]),
    ],
)
def test_a_bit_that_is_missing_or_new_is_named(tmp_path, edx, without, clauses):
    found = list(differences(Offers(NP | NRIPS, "", tmp_path / "t.toml"), edx, without))

    assert [each.clause for each in found] == clauses
    assert all(f"EDX[{each.bit.bit}]" in each.reason for each in found)


def test_names_are_those_of_the_manual():
    assert names(NP | VGIF | 1 << 9) == ["NP", "reserved9", "VGIF"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('offers = ["NP"]', "offers is a table of its own"),
        ('[[offers]]\nbits = "NP"', "bits must be a list of names"),
        ('[[offers]]\nbits = ["NRIP"]', "no bit named 'NRIP'; did you mean NRIPS"),
        ('[[offers]]\nbits = []\nversion = "7"', "unknown key version"),
        ('[[offers]]\nbits = []\nversions = "7.x"', "version range"),
        ("[[offers]]\nversions = 7\nbits = []", "versions must be a text"),
        ("[[offers", "t.toml"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, complaint):
    path = tmp_path / "t.toml"
    path.write_text(text)

    with pytest.raises(BaselineError, match=complaint) as caught:
        offers_at([path], (1,))

    assert "\n" not in str(caught.value)
