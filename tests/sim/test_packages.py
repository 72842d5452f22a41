"""What is said to apt, and what is read from it; nothing is downloaded."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.sim import packages
from harness.sim.error import SimError
from harness.sim.packages import Choice, Package, PackageView

LINE = (
    "'http://deb.debian.org/debian/pool/main/b/busybox/busybox-static_1.35.0-4%2bdeb12u1_amd64.deb' "
    "busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb 928188 MD5Sum:f6f1b0b4181aead8e1a5b1258f63f501"
)


def ran(status: int, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], status, out, err)


def test_a_line_of_print_uris_is_read() -> None:
    package = Package.parse(LINE)
    assert package is not None
    assert (package.name, package.version, package.size) == ("busybox-static", "1:1.35.0-4+deb12u1", 928188)
    assert package.file == "busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb"


def test_a_line_without_a_digest_is_read() -> None:
    package = Package.parse("'http://x/linux.deb' linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb 26713492 ")
    assert package is not None and package.version == "6.1.192-2" and package.digest == ""


@pytest.mark.parametrize("line", ["", "Reading package lists...", "'http://x' y 3 z"])
def test_other_lines_are_none(line: str) -> None:
    assert Package.parse(line) is None


def test_a_choice_takes_its_roots_and_what_begins_so() -> None:
    choice = Choice(("linux-image-cloud-amd64",), ("linux-",))
    assert [name for name in ("linux-image-cloud-amd64", "linux-binary-7.2", "libc6") if choice.takes(name)] == [
        "linux-image-cloud-amd64",
        "linux-binary-7.2",
    ]


@pytest.mark.parametrize("suite", ["", "../etc", "Bookworm", "book worm", "-x"])
def test_a_suite_that_is_none_is_refused(suite: str, tmp_path: Path) -> None:
    with pytest.raises(SimError, match="is no Debian suite"):
        PackageView(suite, tmp_path)


def view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *answers: subprocess.CompletedProcess[str]) -> PackageView:
    left = list(answers)
    if not packages.KEYRING.is_file():
        monkeypatch.setattr(packages, "KEYRING", tmp_path / "keyring")
        (tmp_path / "keyring").touch()
    monkeypatch.setattr(PackageView, "_apt", lambda self, arguments, deadline_s: left.pop(0))
    return PackageView("bookworm", tmp_path / "view")


def test_the_view_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSVM_DEBIAN_MIRROR", "http://mirror.example/debian")
    assert view(tmp_path, monkeypatch, ran(0)).refresh() is None
    sources = (tmp_path / "view/sources.list").read_text().splitlines()
    assert [line.split()[3:5] for line in sources] == [
        ["http://mirror.example/debian", "bookworm"],
        ["http://mirror.example/debian", "bookworm-updates"],
        [packages.SECURITY_MIRROR, "bookworm-security"],
    ]
    assert all("signed-by=" in line for line in sources)
    configuration = (tmp_path / "view/apt.conf").read_text()
    assert (tmp_path / "view/apt.conf").stat().st_mode & 0o077 == 0, "proxies may have passwords"
    assert f'Dir::State "{tmp_path}/view";' in configuration
    assert "/var/lib" not in configuration and "/etc/apt" not in configuration


def test_sid_has_no_security_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view(tmp_path, monkeypatch, ran(0))
    PackageView("sid", tmp_path / "view").refresh()
    assert len((tmp_path / "view/sources.list").read_text().splitlines()) == 1


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = ran(100, err="E: Failed to fetch http://x/InRelease  Could not resolve 'x'\nE: Some index files failed")
    with pytest.raises(SimError) as caught:
        view(tmp_path, monkeypatch, failed).refresh()
    assert str(caught.value) == (
        "apt could not read the lists of bookworm: Failed to fetch http://x/InRelease  Could not resolve 'x'"
    )


def test_without_network_the_lists_of_before_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = view(tmp_path, monkeypatch, ran(100, err="E: no network"), ran(0, LINE))
    (tmp_path / "view/lists").mkdir(parents=True)
    (tmp_path / "view/lists/x_Packages.lz4").touch()
    assert (
        offline.refresh() == "apt could not read the lists of bookworm: no network; going on with the lists of before"
    )
    assert [package.name for package in offline.choose([Choice(("busybox-static",))])] == ["busybox-static"]


def test_a_network_that_swallows_everything_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "UPDATE_DEADLINE_S", 0.1)
    apt = tmp_path / "bin/apt-get"
    apt.parent.mkdir()
    apt.write_text("#!/bin/sh\nexec sleep 60\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(packages, "KEYRING", apt)
    stuck = PackageView("bookworm", tmp_path / "view")
    with pytest.raises(SimError, match="could not read the lists of bookworm: not done after 0 s"):
        stuck.refresh()
    (tmp_path / "view/lists/x_Packages.lz4").touch()
    assert "going on with the lists of before" in (stuck.refresh() or "")


def test_why_a_package_is_not_there_is_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = view(tmp_path, monkeypatch, ran(100, err="E: no network"), ran(100, err="E: no candidate"))
    (tmp_path / "view/lists").mkdir(parents=True)
    (tmp_path / "view/lists/x_Packages.lz4").touch()
    offline.refresh()
    with pytest.raises(SimError, match=r"no network$"):
        offline.resolve(["busybox-static"])


def test_what_is_there_is_not_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = view(tmp_path, monkeypatch, ran(0))
    there.refresh()
    package = Package("a", "1", "a_1_amd64.deb", 3, "")
    assert there.missing([package]) == [package]
    (there.archives / package.file).write_bytes(b"12")
    assert there.missing([package]) == [package]
    (there.archives / package.file).write_bytes(b"123")
    assert there.fetch([package]) == [there.archives / package.file]


def test_a_full_disk_is_said_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = view(tmp_path, monkeypatch, ran(0))
    full.refresh()
    with pytest.raises(SimError, match=r"MiB free, \d+ MiB needed"):
        full.fetch([Package("a", "1", "a_1_amd64.deb", 1 << 60, "")])


def test_a_folder_apt_cannot_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view(tmp_path, monkeypatch)
    with pytest.raises(SimError, match="blanks or quotes"):
        PackageView("bookworm", tmp_path / "a folder").refresh()


def test_what_is_no_package_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"nothing")
    with pytest.raises(SimError, match=r"/x\.deb cannot be unpacked \(remove it if it is damaged\)"):
        packages.unpack(tmp_path / "x.deb", tmp_path / "into")
