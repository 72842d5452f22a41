"""A policy says what L0 is to offer; each bit is judged against it, and a file that makes no sense is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge.policy import PolicyError, judge, load_policy, policy_names
from harness.svm.cpuid import svm_bit

FOLDER = Path(__file__).parents[2] / "policies"
REQUIRED = ["NP", "LbrVirt", "NRIPS", "FlushByAsid", "DecodeAssists"]
WANTED = [*REQUIRED, "VmcbClean"]
ZEN3 = (0x19, 0x01, 1)


def edx(*names: str) -> int:
    return sum(1 << svm_bit(name).bit for name in names)


def complaints(policy, seen, host=(), cpu=ZEN3):
    rows = judge(policy.rules_for(cpu)[0], seen, dict(host))
    return {row.rule.bit.name: row.verdict for row in rows if row.deviates}


def test_the_policies_of_the_project_can_be_read():
    assert policy_names(FOLDER) == ["hardware", "none", "xen-nested"]
    for name in policy_names(FOLDER):
        rules, _ = load_policy(name, FOLDER).rules_for(ZEN3)
        assert [rule.bit.bit for rule in rules] == list(range(32))


def test_xens_design_names_all_eight_bits_with_a_reason():
    rules = load_policy("xen-nested", FOLDER).rules_for(ZEN3)[0]

    assert [rule.bit.name for rule in rules if rule.host == "required"] == REQUIRED
    assert {rule.bit.name for rule in rules if rule.guest == "provided"} == set(WANTED)
    assert [rule.bit.name for rule in rules if rule.guest == "withheld"] == ["SVML", "TscRateMsr"]
    assert all(rule.why for rule in rules[:8])
    assert {rule.guest for rule in rules[8:]} == {"noted"}


@pytest.mark.parametrize(
    ("seen", "host", "expected"),
    [
        (edx(*WANTED), {}, {}),
        (edx(*WANTED, "PauseFilter", "VGIF"), {}, {}),  # beyond the policy: told, not judged
        (edx(*REQUIRED), {}, {"VmcbClean": "MISSING in L1"}),
        (edx(*WANTED, "SVML", "TscRateMsr"), {}, {"SVML": "OFFERED to L1", "TscRateMsr": "OFFERED to L1"}),
        (edx(*WANTED), {"VmcbClean": False}, {}),  # L0 makes it itself
        (edx(*WANTED), {"NRIPS": False}, {"NRIPS": "L0's CPU LACKS it"}),
        (edx("NP"), {"SVML": True, "NP": True}, dict.fromkeys(WANTED[1:], "MISSING in L1")),
    ],
)
def test_xens_design_is_judged(seen, host, expected):
    assert complaints(load_policy("xen-nested", FOLDER), seen, host) == expected


def test_a_bit_missing_in_both_says_so():
    verdict = complaints(load_policy("xen-nested", FOLDER), edx(), {"NRIPS": False})["NRIPS"]

    assert verdict == "L0's CPU LACKS it; MISSING in L1"


def test_no_policy_wants_nothing():
    none = load_policy("none", FOLDER)

    assert complaints(none, 0) == complaints(none, 0xFFFF_FFFF) == {}


@pytest.mark.parametrize(
    ("cpu", "seen", "expected"),
    [
        ((0x19, 0x01, 1), 0x119B_9CFF, {}),
        ((0x19, 0x01, 1), 0x119B_9CFE, {"NP": "MISSING in L1"}),
        ((0x19, 0x01, 1), 0x119B_BCFF, {"AVIC": "OFFERED to L1"}),
        ((0x19, 0x50, 0), 0x101B_BCFF, {}),  # two values: microcode decides on bit 28
        ((0x19, 0x50, 0), 0x001B_BCFF, {}),
        ((0x19, 0x01, 7), 0x119B_9CFF, {}),  # a stepping that nobody dumped: its model's
        ((0x19, None, None), 0x001B_9CFF, {}),  # what all of the family have
        ((0x1A, 0x02, 1), 0xFFBF_BDFF & ~0x0000_0A00, {}),  # reserved bits are wanted of nobody
    ],
)
def test_the_hardware_policy_is_that_of_the_processor(cpu, seen, expected):
    assert complaints(load_policy("hardware", FOLDER), seen, cpu=cpu) == expected


def test_the_dumps_that_count_are_named():
    told = load_policy("hardware", FOLDER).rules_for((0x19, 0x50, 0))[1]

    assert told == "family 19h model 50h stepping 0h: EDX 001BBCFF or 101BBCFF, NASID 32768"


def test_a_family_that_nobody_dumped_is_no_pass():
    with pytest.raises(PolicyError, match="no dump is of a processor of family 06h; there are 0Fh, 10h"):
        load_policy("hardware", FOLDER).rules_for((6, 0, 0))


GOOD = 'title = "t"\nsource = "s"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title = ", "Invalid value"),
        ('source = "s"', "title must be a text"),
        (GOOD + 'bits = ["NP"]', "unknown key bits"),
        (GOOD + 'unnamed = "no"', "unnamed is open, noted or withheld, not 'no'"),
        (GOOD + 'bit = ["NP"]', "each bit is a table of its own"),
        (GOOD + '[[bit]]\nguest = "provided"', "no bit named None"),
        (GOOD + '[[bit]]\nname = "NRIP"\nguest = "provided"', "no bit named 'NRIP'; did you mean NRIPS?"),
        (
            GOOD + '[[bit]]\nname = "NP"\nguest = "yes"',
            "NP: guest is one of provided, withheld, noted, open, not 'yes'",
        ),
        (GOOD + '[[bit]]\nname = "NP"', "NP: guest is one of"),
        (GOOD + '[[bit]]\nname = "NP"\nguest = "open"\nhost = 1', "NP: host is one of required, optional, not 1"),
        (GOOD + '[[bit]]\nname = "NP"\nguest = "open"\nwy = ""', "NP: unknown key wy"),
        (GOOD + '[[bit]]\nname = "NP"\nguest = "open"\n' * 2, "NP is there twice"),
        (GOOD + 'silicon = "none.csv"', "none.csv: .*No such file"),
        (GOOD + 'silicon = "none.csv"\nunnamed = "open"', "silicon, or bits of its own, and not both"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(PolicyError, match=said):
        load_policy(str(path), FOLDER)


@pytest.mark.parametrize("lines", ["family,model\n19,1\n", "family,model,stepping,edx,nasid\n19,1,1,zz,8\n"])
def test_data_that_cannot_be_read(tmp_path, lines):
    (tmp_path / "mine.toml").write_text(GOOD + 'silicon = "mine.csv"')
    (tmp_path / "mine.csv").write_text(lines)

    with pytest.raises(PolicyError, match=r"mine.csv: a line is not family,model"):
        load_policy(str(tmp_path / "mine.toml"), FOLDER)


def test_a_name_that_nobody_knows_is_told_its_neighbour(tmp_path):
    with pytest.raises(PolicyError, match="no policy is called 'xen-neste'; did you mean xen-nested"):
        load_policy("xen-neste", FOLDER)
    with pytest.raises(PolicyError, match=r"my.toml: no such file"):
        load_policy(str(tmp_path / "my.toml"), FOLDER)
