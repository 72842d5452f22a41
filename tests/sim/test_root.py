"""Files are looked for in unpacked packages, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.sim.error import SimError
from harness.sim.root import Packages, needed_libraries


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    """Two packages; below them, links of all kinds, and a file of this machine's."""
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "usr/bin").mkdir(parents=True)
    (one / "usr/bin/tool").write_text("theirs")
    (one / "usr/bin/alias").symlink_to("tool")
    (tmp_path / "ours").write_text("ours")
    (one / "usr/bin/absolute").symlink_to(tmp_path / "ours")
    (one / "usr/bin/upwards").symlink_to("../../../ours")
    (two / "usr/lib/deep/er").mkdir(parents=True)
    (two / "usr/lib/deep/er/libx.so.1").write_text("library")
    (two / "usr/bin").mkdir()
    (two / "usr/bin/tool").write_text("another")
    return [one, two]


def test_the_first_package_that_has_it_counts(trees: list[Path]) -> None:
    packages = Packages(trees)
    assert packages.need("usr/bin/none", "usr/bin/t*").read_text() == "theirs"
    assert packages.need("usr/bin/alias").read_text() == "theirs"
    assert packages.library("libx.so.1") == trees[1] / "usr/lib/deep/er/libx.so.1"
    assert packages.library("liby.so.1") is None


@pytest.mark.parametrize("name", ["usr/bin/absolute", "usr/bin/upwards"])
def test_a_link_out_of_its_package_is_not_followed(trees: list[Path], name: str) -> None:
    assert (trees[0] / name).read_text() == "ours"
    assert Packages(trees).find(name) is None


def test_what_none_has_is_named(trees: list[Path]) -> None:
    with pytest.raises(SimError, match="none of the packages has usr/bin/a or usr/bin/b"):
        Packages(trees).need("usr/bin/a", "usr/bin/b")


def test_what_is_no_elf_file_is_named(trees: list[Path]) -> None:
    with pytest.raises(SimError, match="usr/bin/tool: "):
        needed_libraries(trees[0] / "usr/bin/tool")
