"""Source packages as the lists have them; nothing is downloaded."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.sim.error import SimError
from harness.sim.sources import SourceView

SHOWN = """\
Package: qemu
Version: 1:10.0.2+ds-2
Checksums-Sha256:
 {a} 12462 qemu_10.0.2+ds-2.dsc
 {b} 40010016 qemu_10.0.2+ds.orig.tar.xz
Directory: pool/main/q/qemu

Package: qemu
Version: 1:10.0.13+ds-0
Checksums-Sha256:
 {a} 12462 qemu_10.0.13+ds-0.dsc
 {b} 40010016 qemu_10.0.13+ds.orig.tar.xz

""".format(a="a" * 64, b="b" * 64)


class View(SourceView):
    """One whose apt answers what it is told to."""

    def __init__(self, directory: Path, shown: str = SHOWN, status: int = 0) -> None:
        super().__init__("trixie", directory)
        self.asked: list[list[str]] = []
        self._answer = subprocess.CompletedProcess([], status, shown, "")
        self.archives.mkdir(parents=True)

    def _apt(self, arguments, deadline_s):  # type: ignore[no-untyped-def]
        self.asked.append(list(arguments))
        return self._answer


def test_the_newest_version_comes_first_and_apt_compares_them(tmp_path: Path) -> None:
    newest, older = View(tmp_path).sources("qemu")

    assert (newest.version, older.version) == ("1:10.0.13+ds-0", "1:10.0.2+ds-2")
    assert newest.file(".orig.tar.xz") == tmp_path / "archives/qemu_10.0.13+ds.orig.tar.xz"
    assert newest.digests == ("a" * 64, "b" * 64)


def test_a_suite_without_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SimError, match=r"^trixie has no source package nosuch$"):
        View(tmp_path, "").sources("nosuch")


def test_a_version_that_the_mirror_has_dropped_is_one_line(tmp_path: Path) -> None:
    view = View(tmp_path)
    with pytest.raises(SimError, match=r"^apt could not download qemu_10.0.13\+ds-0.dsc, qemu_10.0.13"):
        view.fetch_source(view.sources("qemu")[0])


def test_one_version_is_fetched(tmp_path: Path) -> None:
    view = View(tmp_path)
    source = view.sources("qemu")[0]
    for path in source.files:
        path.touch()

    view.fetch_source(source)

    assert view.asked[-1] == ["source", "--download-only", "-q", "--only-source", "qemu=1:10.0.13+ds-0"]
    with pytest.raises(SimError, match=r"has 0 files \*.debian.tar.xz, not one"):
        source.file(".debian.tar.xz")


def test_the_lists_are_of_packages_and_of_sources(tmp_path: Path) -> None:
    kinds = [line.split()[0] for line in View(tmp_path)._sources().splitlines()]

    assert kinds == ["deb", "deb", "deb", "deb-src", "deb-src", "deb-src"]
