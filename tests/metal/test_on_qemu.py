"""Whole runs on a machine of the lab that is a QEMU: booted over its network card, by kexec from its own Linux, from a
CD; driven, and left with its own OS.

What fetches packages or takes long is run with NSVM_WHOLE=1 alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from harness.record import load
from harness.sim.state import State
from harness.sim.wanted import Wanted
from tests.metal.debian import fetched
from tests.metal.lab import Lab
from tests.metal.qemu import Qemu, disk, pxe
from tests.sim.built import built

ROOT = Path(__file__).resolve().parents[2]
CHOICE = ("suites/core/test_checks_control.py", "-k", "test_asid_zero_is_refused and real16")

LINUX = "console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check nokaslr random.trust_cpu=on ipv6.disable=1"
KEXEC = ("kexec-tools", "libxenmisc4.17", "libxentoollog1", "libxencall1", "libxendevicemodel1", "libxenevtchn1",
         "libxenforeignmemory1", "libxengnttab1", "libxentoolcore1", "libc6")  # fmt: skip
WRAPPER = '#!/bin/sh\nexec /tmp/kexec/ld-linux-x86-64.so.2 --library-path /tmp/kexec /tmp/kexec/kexec "$@"\n'

pytestmark = pytest.mark.emulator
whole = pytest.mark.skipif(not os.environ.get("NSVM_WHOLE"), reason="NSVM_WHOLE=1 is missing: it fetches packages")


def nsvm(tmp_path: Path, lab_file: str, *arguments: str, install: bool = False) -> subprocess.CompletedProcess[str]:
    (tmp_path / "lab.toml").write_text(lab_file)
    return subprocess.run(
        [str(ROOT / "nsvm"), *arguments, *([] if install else ["--no-install"])],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "NSVM_LAB": str(tmp_path / "lab.toml"), "NSVM_LEASES": str(tmp_path / "leases")},
    )


def test_a_run_over_pxe(tmp_path: Path) -> None:
    folder = tmp_path / "tftp"
    folder.mkdir()
    machine = Qemu(pxe(folder, disk(tmp_path)))
    with Lab(machine, on=True) as lab:
        boot = f'driver = "files"\nfolder = "{folder}"'
        done = nsvm(
            tmp_path, lab.toml(boot, patience_s=150.0), "run", "--target", "metal:one", *CHOICE,
            "--out", str(tmp_path / "out"),
        )  # fmt: skip
        run = load(tmp_path / "out" / "run.jsonl")

        assert done.returncode in (0, 1), done.stdout + done.stderr
        assert {result.verdict for result in run.results} <= {"PASS", "FAIL"}
        assert len(run.results) >= 2
        assert machine.boots == 2  # the second one is ours, and resets itself into its own OS
        assert lab.power[:2] == ["off", "on"]
        assert not list(folder.iterdir())
        assert lab.tail.endswith(b"one login: ")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ssh(state: State, port: int, command: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    end = time.monotonic() + 60
    while True:  # the server comes up right behind the OS
        done = subprocess.run(
            ["ssh", *options, "-i", str(state.directory / "id"), "-p", str(port), "root@127.0.0.1", command],
            input=data, capture_output=True, timeout=120,
        )  # fmt: skip
        if done.returncode != 255 or time.monotonic() > end:
            return done
        time.sleep(0.3)


@whole
def test_a_run_by_kexec_from_its_own_linux(tmp_path: Path) -> None:
    state = built("kvm", Wanted("kvm"))
    port = free_port()
    files = fetched(KEXEC, tmp_path / "packages")
    machine = Qemu(
        ["-kernel", str(state.directory / "vmlinuz"), "-initrd", str(state.directory / "initrd"), "-append", LINUX,
         "-no-reboot", "-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22",
         "-device", "virtio-net-pci,netdev=n,romfile="],
        memory="512M",
    )  # fmt: skip
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {state.host_key}\n")
    own = f"""
[host.one]
address = "127.0.0.1"
port = {port}
user = "root"
identity_files = ["{state.directory / "id"}"]
known_hosts = ["{tmp_path / "known"}"]
use_agent = false
use_ssh_config = false
connect_deadline_s = 60
"""
    with Lab(machine, on=True) as lab:
        lab.await_text(b"nsvm: ready", 200)
        sent = [
            files.program("kexec"),
            files.find("ld-linux-x86-64.so.2"),
            files.find("libc.so.6"),
            *files.all("libxen"),
        ]
        for path in sent:
            put = ssh(state, port, f"mkdir -p /tmp/kexec && cat > /tmp/kexec/{path.name}", path.read_bytes())
            assert put.returncode == 0, put.stderr
        ssh(state, port, "cat > /tmp/kexec/run && chmod +x /tmp/kexec/*", WRAPPER.encode())
        table = 'driver = "kexec"\nkexec = "/tmp/kexec/run"'
        text = lab.toml(table, 'host = "one"', patience_s=200.0) + own
        doctor = nsvm(tmp_path, text, "doctor", "--target", "metal:one", "--no-boot")
        done = nsvm(
            tmp_path,
            text,
            "run",
            "--target",
            "metal:one",
            *CHOICE,
            "--fresh-boot",
            "never",  # kexec lies in its own OS's memory, and is gone after a boot
            "--out",
            str(tmp_path / "out"),
        )
        run = load(tmp_path / "out" / "run.jsonl")

        assert "kexec-tools 2.0" in doctor.stdout
        assert done.returncode in (0, 1), done.stdout + done.stderr
        assert {result.verdict for result in run.results} <= {"PASS", "FAIL"}
        assert len(run.results) >= 2
        assert ssh(state, port, "uname -s").stdout == b"Linux\n"
        assert lab.power == []  # nobody had to cut the power


def test_a_boot_from_an_iso_image(tmp_path: Path) -> None:
    made = nsvm(tmp_path, "", "image", "iso", "-o", str(tmp_path / "images"))
    if "is missing" in made.stderr or "missing" in made.stderr.lower():
        pytest.skip(made.stderr.strip().splitlines()[-1])
    assert made.returncode == 0, made.stderr
    machine = Qemu(["-cdrom", str(tmp_path / "images" / "nsvm.iso"), "-boot", "d"])
    with Lab(machine, on=True) as lab:
        lab.await_text(b"AuthcAMDenti", 120)  # its hello, with CPUID in it


@whole
def test_a_uefi_machine_boots_the_efi_image(tmp_path: Path) -> None:
    files = fetched(("ovmf",), tmp_path / "packages")
    made = nsvm(tmp_path, "", "image", "efi", "-o", str(tmp_path / "esp" / "EFI" / "BOOT"), install=True)
    assert made.returncode == 0, made.stderr
    (tmp_path / "esp/EFI/BOOT/nsvm.efi").rename(tmp_path / "esp/EFI/BOOT/BOOTX64.EFI")
    code = files.find("OVMF_CODE.fd")
    machine = Qemu(
        ["-M", "q35", "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
         "-drive", f"format=raw,file=fat:{tmp_path / 'esp'},if=none,id=e", "-device", "virtio-blk-pci,drive=e"],
        memory="512M",
    )  # fmt: skip
    with Lab(machine, on=True) as lab:
        lab.await_text(b"AuthcAMDenti", 240)
