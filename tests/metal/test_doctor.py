"""The doctor names what is missing of a machine, with what mends it, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hosts.finding import HostFinding
from harness.metal.doctor import findings, of_own_os
from harness.metal.lease import Lease
from harness.metal.spec import find, from_table
from tests.metal.fakes import FakeMachine
from tests.metal.lab import Lab

CPUINFO = """processor : 0
cpu family : 25
model : 17
model name : AMD EPYC 9354
stepping : 1
microcode : 0xa101148
flags : fpu svm npt lbrv nrip_save
"""
FACTS = {
    "kernel": "6.1.0", "user": "0", "cmdline": "root=/dev/sda1 console=ttyS0,115200", "cpu": CPUINFO,
    "kexec": "/sbin/kexec\nkexec-tools 2.0.25", "kexec_off": "0", "has_kexec": "/sys/kernel/kexec_loaded",
    "lockdown": "[none] integrity confidentiality", "secure_boot": "0", "svm_off": "", "iommu": "", "encrypt": "",
    "firmware": "AMI\n5.1\n01/02/2025", "efi": "", "grub": "/usr/sbin/grub-reboot\nGRUB_DEFAULT=saved",
}  # fmt: skip
SPEC = {"console": "/dev/ttyS0", "host": "one", "power": {"driver": "command"}, "boot": {"driver": "kexec"}}


def told(driver: str = "kexec", **changed: str) -> dict[str, HostFinding]:
    spec = from_table("one", SPEC | {"boot": {"driver": driver}}, Path())
    return {found.what: found for found in of_own_os(FACTS | changed, spec)}


def test_a_machine_that_is_ready() -> None:
    found = told()

    assert all(finding.ok is not False for finding in found.values())
    assert found["CPU"].detail == "AMD EPYC 9354, family 19h model 11h stepping 1h, microcode 0xa101148"
    assert found["SVM"].detail == "there; NP LbrVirt NRIPS"
    assert found["boot"].detail == "kexec-tools 2.0.25"


@pytest.mark.parametrize(
    ("driver", "changed", "what", "mend"),
    [
        ("kexec", {"svm_off": "kvm_amd: SVM disabled (by BIOS) in MSR_VM_CR"}, "SVM", "switch SVM"),
        ("kexec", {"cpu": CPUINFO.replace("svm ", "")}, "SVM", "SVM is off"),
        ("kexec", {"secure_boot": "1"}, "Secure Boot", "switch Secure Boot off"),
        ("kexec", {"kexec": ""}, "boot", "apt-get install kexec-tools"),
        ("kexec", {"has_kexec": ""}, "boot", "use grub"),
        ("kexec", {"kexec_off": "1"}, "boot", "kexec_load_disabled=0"),
        ("kexec", {"lockdown": "none [integrity] confidentiality"}, "boot", "lockdown=none"),
        ("kexec", {"user": "1000"}, "own OS", "user = root"),
        ("grub", {"grub": "/usr/sbin/grub-reboot\nGRUB_DEFAULT=0"}, "boot", "GRUB_DEFAULT=saved"),
    ],
)
def test_what_is_missing_has_the_line_that_mends_it(driver: str, changed: dict[str, str], what: str, mend: str) -> None:
    finding = told(driver, **changed)[what]

    assert finding.ok is False
    assert mend in finding.mend


def test_what_is_worth_knowing_stops_nothing() -> None:
    found = told(iommu="ivhd0\nivhd1", encrypt="[    1.0] AMD Memory Encryption Features active: SME", cmdline="quiet")

    assert {"IOMMU", "memory", "Linux console"} <= {name for name, each in found.items() if each.ok is None}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    (tmp_path / "tftp").mkdir()
    with Lab(FakeMachine(tmp_path / "tftp"), on=True) as made:
        (tmp_path / "lab.toml").write_text(made.toml(f'driver = "files"\nfolder = "{tmp_path / "tftp"}"'))
        monkeypatch.setenv("NSVM_LAB", str(tmp_path / "lab.toml"))
        monkeypatch.setenv("NSVM_LEASES", str(tmp_path / "leases"))
        monkeypatch.setattr("harness.metal.doctor.LISTEN_S", 0.3)
        yield made


def look() -> dict[str, HostFinding]:
    return {found.what: found for found in findings(find("one"))}


def test_the_three_paths_are_looked_at_and_nothing_is_switched(lab: Lab) -> None:
    lab.greeting = b"\r\none login: "
    found = look()

    assert [found[what].ok for what in ("lease", "console", "power", "boot")] == [True, True, None, True]
    assert "one login:" in found["console"].detail
    assert lab.power == []


def test_a_path_that_is_missing(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "tftp").rmdir()
    text = (tmp_path / "lab.toml").read_text()
    (tmp_path / "lab.toml").write_text(text.replace(lab.console, "/dev/nothing").replace('"pdudaemon"', '"pdu"'))
    found = look()

    assert [found[what].ok for what in ("console", "power", "boot")] == [False, False, False]
    assert "/dev/nothing: No such file" in found["console"].detail
    assert "driver is 'pdu'; there are command" in found["power"].detail
    assert found["boot"].mend.startswith("mkdir -p ")


def test_somebody_elses_machine_is_left_alone(lab: Lab) -> None:
    lease = Lease("one")
    lease.take()
    found = look()
    lease.release()

    assert list(found) == ["lease"]
    assert "in use by" in found["lease"].detail
