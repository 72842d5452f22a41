"""The table of faults: what may stand in it, what the compiler gets, and that each fault of it is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.command import main
from harness.reference import faults, recipe
from harness.reference.error import ReferenceMachineError
from harness.reference.faults import Fault

HEAD = '[[fault]]\nname = "cr2-lost"\narea = "core"\nwhat = "CR2 is lost."\nlike = "KVM"\n'
SUITES_OF_BITS = {"core", "np", "nrips", "decodeassists", "lbrvirt", "vmcbclean", "flushbyasid", "tscratemsr", "svml"}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    return path


def test_a_fault_is_read_with_its_rule(tmp_path: Path) -> None:
    (fault,) = faults.load(written(tmp_path, HEAD + "drops = 0x640\n"))

    assert fault == Fault("cr2-lost", "core", "CR2 is lost.", "KVM", ("drops", (0x640,)))
    assert fault.constant == "NSVM_FAULT_CR2_LOST"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD.replace("cr2-lost", "CR2"), "a fault's name is of small letters"),
        (HEAD.replace('like = "KVM"\n', ""), "cr2-lost: `like` is missing"),
        (HEAD + "loses = []\n", "cr2-lost: loses = .* has not the numbers"),
        (HEAD + "drops = 0x1000\n", "no field of a VMCB is there"),
        (HEAD + "trusts = [0x50]\n", "has not the numbers that it needs"),
        (HEAD + "drops = 1\nloses = [2]\n", "one is enough"),
        (HEAD + "gains = 1\n", "has 'gains'"),
        (HEAD + HEAD, "cr2-lost is there twice"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ReferenceMachineError, match=complaint):
        faults.load(written(tmp_path, text))


def test_the_compiler_gets_an_enum_and_a_table() -> None:
    texts = faults.files(
        [
            Fault("a-b", "core", "x", "y"),
            Fault("c", "core", "x", "y", ("loses", (0x18, 0x70))),
            Fault("d", "core", "x", "y", ("trusts", (0x50, -1))),
            Fault("e", "core", "x", "y", ("adds", (0x68, 4, 3))),
        ]
    )

    assert re.search(r"NSVM_FAULT_NONE,\s+NSVM_FAULT_A_B,\s+NSVM_FAULT_C,", texts["faults.h"])
    table = texts["faults.c.inc"]
    assert '[NSVM_FAULT_A_B] = { .name = "a-b" },' in table
    assert ".kind = NSVM_FAULT_LOSES, .count = 2, .codes = { 0x18, 0x70 }" in table
    assert ".kind = NSVM_FAULT_TRUSTS, .offset = 0x50, .bit = -1" in table
    assert ".kind = NSVM_FAULT_ADDS, .offset = 0x68, .adds_bytes = 4, .bit = 3" in table
    assert faults.files([]) == {}


def test_each_fault_of_ours_does_something() -> None:
    """It has a rule, or the C code asks for it; and the code asks for no other."""
    known = faults.load()
    source = "".join(path.read_text() for path in sorted((recipe.OURS / "src").glob("*.[ch]")))
    source += (recipe.OURS / "hooks" / "fault.toml").read_text()
    asked = set(re.findall(r"NSVM_FAULT_[A-Z0-9_]+", source))
    of_enum = {fault.constant for fault in known}

    assert {fault.constant for fault in known if fault.rule is None} <= asked
    kinds = {
        f"NSVM_FAULT_{kind}" for kind in ("NONE", "H", "DROPS", "HOST_KEEPS", "GUEST_KEEPS", "LOSES", "TRUSTS", "ADDS")
    }
    assert asked - of_enum <= kinds


def test_there_are_enough_of_them_for_every_area() -> None:
    areas = [fault.area for fault in faults.load()]

    assert len(areas) >= 80
    assert set(areas) == SUITES_OF_BITS
    assert min(areas.count(area) for area in SUITES_OF_BITS) >= 8


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference", "faults", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)

    assert [entry["name"] for entry in listed] == [fault.name for fault in faults.load()]
    assert main(["reference", "faults"]) == 0
    assert f"{len(listed)} faults" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--fault", "nrip-stale"], "only the reference machine can be told to misbehave"),
        (["--target", "reference", "--fault", "nonsense"], "no fault is called 'nonsense'"),
    ],
)
def test_a_fault_that_cannot_be_is_the_users_mistake(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 2
    assert complaint in capsys.readouterr().err
