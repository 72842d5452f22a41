"""`nsvm bench`: figures and goals; what is measured on a machine is tested with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness import bench
from harness.bench import Bench, Figure, NotMeasured
from harness.bench.boot import trivial_image
from harness.cli import machine, main
from harness.cli.bench import line
from harness.link_error import LinkError
from harness.targets.base import Target


@pytest.mark.parametrize(
    ("value", "goal", "more", "reached"),
    [
        (1.2, 1.3, False, True),
        (1.4, 1.3, False, False),
        (120, 100, True, True),
        (80, 100, True, False),
        (None, 1, True, None),
        (5, None, True, None),
    ],
)
def test_a_goal_is_reached_or_not(value: float | None, goal: float | None, more: bool, reached: bool | None) -> None:
    figure = Figure(name="f", value=value, unit="s", goal=goal, more_is_better=more)

    assert figure.reached is reached
    assert ("NOT reached" in line(figure)) == (reached is False)
    assert figure.as_json()["reached"] is reached


def test_the_trivial_image_is_a_32_bit_multiboot_image(tmp_path: Path) -> None:
    image = trivial_image(tmp_path)

    with open(image, "rb") as file:
        elf = ELFFile(file)
        assert elf.elfclass == 32
        text = elf.get_section_by_name(".text").data()
        assert elf.header["e_entry"] == elf.get_section_by_name(".text")["sh_addr"] + 12
    magic, flags, checksum = (int.from_bytes(text[at : at + 4], "little") for at in (0, 4, 8))
    assert magic == 0x1BADB002
    assert (magic + flags + checksum) & 0xFFFF_FFFF == 0


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> None:
    def good(_bench: object) -> list[Figure]:
        return [Figure(name="boots", value=2.0, unit="s", goal=1.0)]

    def cannot(_bench: object) -> list[Figure]:
        raise NotMeasured("there is no such thing here")

    def broken(_bench: object) -> list[Figure]:
        raise LinkError("gone")

    monkeypatch.setattr(machine, "prepare", lambda *_a, **_k: None)
    monkeypatch.setattr(bench, "MEASURES", {"good": good, "cannot": cannot, "broken": broken})


def test_figures_are_told_reached_or_not(measures: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--only", "good", "--only", "cannot"]) == 0

    told = capsys.readouterr().out
    assert "at most 1 s: NOT reached" in told
    assert "not measured: there is no such thing here" in told


def test_a_measure_that_fails_is_told_and_is_3(measures: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json"]) == 3

    told = json.loads(capsys.readouterr().out)
    assert [figure["measure"] for figure in told["figures"]] == ["good", "cannot", "broken"]
    assert told["figures"][0]["reached"] is False
    assert told["figures"][2]["detail"] == "failed: gone"


def context(tmp_path: Path, target: str = "qemu-tcg", *, slow: bool = False) -> Bench:
    def never(**_more: object) -> Target:
        raise AssertionError("nothing is to be started")

    return Bench(target, never, never, tmp_path, tmp_path, slow=slow)  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", ["sim-first", "ssh-echo", "sim-suite"])
@pytest.mark.parametrize(
    ("target", "told"), [("qemu-tcg", "./nsvm sim build kvm"), ("sim:xen", "./nsvm sim build xen")]
)
def test_a_simulated_host_that_is_not_built_is_not_measured(
    measure: str, target: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSVM_SIM", str(tmp_path / "none"))

    with pytest.raises(NotMeasured) as caught:
        bench.MEASURES[measure](context(tmp_path, target, slow=True))

    assert "not built" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("measure", ["slow-line", "sim-suite"])
def test_what_takes_many_minutes_is_measured_when_asked_for(measure: str, tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="say --slow"):
        bench.MEASURES[measure](context(tmp_path))
