"""`nsvm bench`: figures and goals; what is measured on a machine is tested with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness import bench
from harness.bench import Figure, NotMeasured
from harness.bench.boot import trivial_image
from harness.cli import machine, main
from harness.cli.bench import line
from harness.link_error import LinkError


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
