"""A run option is declared once: what a person types, what pytest gets, what a worker has and what is told follow."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from harness.machine.base import TargetOptions
from harness.run.options import OptionError, RunOptions, add_options, declared
from harness.run.worker import Settings


def typed(*words: str) -> RunOptions:
    parser = argparse.ArgumentParser()
    add_options(parser.add_argument)
    return RunOptions.of(parser.parse_args(words))


WORDS = [
    "--fresh-boot", "always", "--qemu", "/a b", "--bochs", "/c", "--cpu", "max,+svm", "--without", "NRIPS,VmcbClean",
    "--expect", "NP,NASID=16", "--policy", "xen-nested",
    "--fault", "nrip-stale", "--baud", "9600", "--lane", "serial", "--shuffle", "7",
    "--dangerous", "--baseline", "x.toml",
]  # fmt: skip


def test_what_was_typed_is_what_pytest_gets() -> None:
    assert typed().words() == []
    assert typed(*WORDS).words() == WORDS
    assert typed("--without", "nripsave, vmcbclean").without == ("NRIPS", "VmcbClean")
    assert {each.metadata["flag"] for each in declared()} == {word for word in WORDS if word.startswith("--")}


def test_the_same_machine_runs_one_test_again() -> None:
    settings = Settings.of(argparse.Namespace(**vars(typed(*WORDS))), target="qemu-tcg", out=Path())

    assert settings.rerun("t.py::a[b]") == (
        "./nsvm run --target qemu-tcg --qemu '/a b' --bochs /c --cpu max,+svm --without NRIPS,VmcbClean "
        "--fault nrip-stale --baud 9600 --shuffle 7 --dangerous 't.py::a[b]'"
    )
    made = settings.options(Path("w"), 2)
    assert isinstance(made, TargetOptions)
    assert (made.qemu_path, made.cpu_model, made.without, made.throttle_baud, made.cpus) == (
        "/a b", "max,+svm", ("NRIPS", "VmcbClean"), 9600, 2,
    )  # fmt: skip


def test_what_makes_it_another_machine_or_baseline_is_told() -> None:
    assert typed(*WORDS).told == [
        "--cpu max,+svm",
        "--without NRIPS,VmcbClean",
        "--fault nrip-stale",
        "--baseline x.toml",
    ]
    assert typed("--baud", "9600").told == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--baud", "x"), "--baud x: not a number of baud"),
        (("--baud", "0"), "--baud 0: at least 1 baud"),
        (("--without", "NRIP"), "--without: no bit .* 'NRIP'"),
    ],
)
def test_what_makes_no_sense_is_one_line(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        typed(*words)
