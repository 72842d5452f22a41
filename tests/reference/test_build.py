"""Fetching, keeping and finding: with a made-up QEMU, no compiler and no network."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import main
from harness.reference import build, compile, recipe, store
from harness.reference.error import ReferenceMachineError
from harness.reference.store import Built
from harness.sim.error import SimError
from harness.sim.sources import Source, SourceView
from harness.targets import create
from harness.targets.base import TargetError, TargetOptions

PATCH = "--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-int x;\n+int y;\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSVM_REFERENCE", str(tmp_path / "reference"))
    return tmp_path / "reference"


def built(home: Path, key: str, when: str = "2026-01-01") -> Built:
    one = Built(home / key, "qemu 1:10.0.13", when, ("NRIPS",), {"features": ["core"]}, {"build_s": 9.0})
    one.program.parent.mkdir(parents=True)
    one.program.write_text("#!/bin/sh\necho QEMU emulator version 10.0.13 '(made up)'\n")
    one.program.chmod(0o755)
    one.save()
    return one


def source(folder: Path, patch: str = PATCH) -> Source:
    """A source package of one file and one patch."""
    folder.mkdir(exist_ok=True)
    files = (folder / "q_1.orig.tar.xz", folder / "q_1-1.debian.tar.xz")
    for path, members in zip(
        files,
        (
            {"qemu-1/x.c": "int x;\n"},
            {"debian/patches/series": "# why\n\none.patch\n", "debian/patches/one.patch": patch},
        ),
        strict=True,
    ):
        with tarfile.open(path, "w:xz") as archive:
            for name, text in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    return Source("qemu", "1-1", files, ("a", "b"))


def test_a_source_is_unpacked_with_debians_patches(tmp_path: Path) -> None:
    compile.unpack(tmp_path / "tree", source(tmp_path / "s"))

    assert (tmp_path / "tree/src/x.c").read_text() == "int y;\n"
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["src"]


def test_a_patch_that_does_not_apply_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(ReferenceMachineError, match=r"Debian's patch one\.patch does not apply"):
        compile.unpack(tmp_path / "tree", source(tmp_path / "s", PATCH.replace("-int x", "-int z")))
    assert not (tmp_path / "tree/src").exists()


class Mirror(SourceView):
    """A mirror that has some versions in its lists and not all of them on its disk."""

    def __init__(self, directory: Path, listed: list[str], there: list[str]) -> None:
        super().__init__("trixie", directory)
        self._listed, self._there = listed, there

    def refresh(self) -> str | None:
        return None

    def sources(self, name: str) -> list[Source]:
        return [Source(name, version, (), ()) for version in self._listed]

    def fetch_source(self, source: Source) -> None:
        if source.version not in self._there:
            raise SimError(f"apt could not download {source.version}")


def test_the_version_before_is_taken_where_the_mirror_has_dropped_the_newest(tmp_path: Path) -> None:
    said: list[str] = []
    mirror = Mirror(tmp_path, ["1:10.0.13+ds-1", "1:10.0.2+ds-2"], ["1:10.0.2+ds-2"])

    assert build.fetch(mirror, recipe.load(), said.append).version == "1:10.0.2+ds-2"
    assert said == ["warning: apt could not download 1:10.0.13+ds-1; trying the version before it"]


def test_no_version_in_the_range_is_one_line(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, ["1:10.1.0+ds-1", "1:9.2.0+ds-1"], [])

    with pytest.raises(ReferenceMachineError, match=r"trixie has qemu 1:10.1.0\+ds-1, .*; reference_machine/qemu.toml"):
        build.fetch(mirror, recipe.load(), print)


def test_a_disk_that_is_too_full_is_said_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "NEEDED_BYTES", 1 << 60)
    tools = build.Tools(tmp_path, tmp_path, print, lambda done, total: None, 1)

    with pytest.raises(ReferenceMachineError, match=r"MiB needed .NSVM_REFERENCE names another place"):
        build.build(recipe.load(), tools)


def test_what_is_built_is_found_by_its_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = recipe.load().key
    built(home, key)

    assert main(["reference", "build"]) == 0
    assert capsys.readouterr().out.startswith(f"reference machine {key}: qemu 1:10.0.13, ")
    assert main(["reference", "path"]) == 0
    assert capsys.readouterr().out == f"{home}/{key}/bin/qemu-system-x86_64\n"


def test_half_a_build_is_none(home: Path) -> None:
    one = built(home, recipe.load().key)
    (one.directory / store.RECORD).unlink()

    with pytest.raises(
        ReferenceMachineError, match=r"^the reference machine is not built: run ./nsvm reference build$"
    ):
        store.current()


def test_one_of_an_older_reference_machine_is_not_taken_for_the_new_one(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built(home, "0" * 12)

    assert main(["reference", "path"]) == 2
    assert "reference_machine/ has changed since the machine was built (000000000000, now" in capsys.readouterr().err
    assert main(["reference", "list"]) == 0
    assert "(of an older reference_machine/)" in capsys.readouterr().out
    assert main(["reference", "remove", "0" * 12]) == 0
    assert not (home / ("0" * 12)).exists()
    assert main(["reference", "remove"]) == 2


def options(tmp_path: Path) -> TargetOptions:
    return TargetOptions(tmp_path, tmp_path / "executor.elf", tmp_path / "disk.img")


def test_the_target_says_what_it_is(home: Path, tmp_path: Path) -> None:
    built(home, recipe.load().key)
    target = create("reference", options(tmp_path))

    assert target.missing() == [] and target.baselines == ("reference",)
    assert target.version() == f"reference machine {recipe.load().key} (synthetic; QEMU 10.0.13 (made up))"
    assert target.version_tuple == (10, 0, 13)


def test_bits_are_taken_away_from_it(home: Path, tmp_path: Path) -> None:
    built(home, recipe.load().key)
    target = create("reference", replace(options(tmp_path), without=("NRIPS", "DecodeAssists")))

    assert "max,+svm,-nrip-save,-decodeassists" in target.command_line()


def test_the_target_that_is_not_built_names_the_line_that_builds_it(tmp_path: Path) -> None:
    target = create("reference", options(tmp_path))

    assert [item.what for item in target.missing()] == [
        "the reference machine is not built: run ./nsvm reference build"
    ]
    with pytest.raises(TargetError, match=r"run ./nsvm reference build"):
        target.start()
    assert main(["caps", "--target", "reference", "--no-install"]) == 2


def test_a_developers_own_build_is_called_so(home: Path, tmp_path: Path) -> None:
    program = built(home, "1" * 12).program
    target = create("reference", replace(options(tmp_path), qemu_path=str(program)))

    assert target.missing() == []
    assert target.version() == "reference machine, your own build (synthetic; QEMU 10.0.13 (made up))"


def test_an_outer_machine_that_is_not_built_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "build", "kvm", "--outer", "reference"]) == 2
    assert "run ./nsvm reference build" in capsys.readouterr().err
    assert main(["sim", "build", "kvm", "--outer", "reference", "--qemu", "/bin/true"]) == 2
