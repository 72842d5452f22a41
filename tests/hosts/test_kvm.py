"""KVM as L0: what is started, how it is found and ended, what it died of, what is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.hosts import processes
from harness.hosts.kvm import Kvm, missing, version
from harness.hosts.l0 import GuestPlan
from harness.hosts.spec import HostSpec
from harness.machine.base import TargetError, TargetOptions
from tests.hosts.vmm import wait_until

SHELLS = [["sh"], *([["busybox", "sh"]] if shutil.which("busybox") else [])]
HOSTILE = "a b'c\"d$(touch pwned)`touch pwned`;touch pwned&|<>*?\\\t\n#!{e}~"
READY = {"vendor": "AuthenticAMD", "svm": "1", "kvm": "1", "open": "1", "nested": "1", "user": "root"}


def kvm(**spec: object) -> Kvm:
    options = TargetOptions(Path("/none"), Path("/none/executor.elf"), Path("/none/disk.img"))
    return Kvm(HostSpec("host", **spec), options)  # type: ignore[arg-type]


def carried_out(command: str, workdir: Path, program: str = "nsvm-host") -> list[str]:
    """The arguments that a program in that folder, also the first in PATH, is given by the shell."""
    fake = workdir / program
    told = "import sys; sys.stdout.write(chr(0).join(sys.argv[1:]))"
    fake.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{told}" "$@"\n')
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{workdir}:{os.environ['PATH']}"}
    ran = subprocess.run(["sh", "-c", command], capture_output=True, timeout=20, check=True, env=env)
    assert not list(workdir.glob("pwned"))
    return ran.stdout.decode().split("\0")


def after(argv: list[str], option: str) -> str:
    assert argv.count(option) == 1, argv
    return argv[argv.index(option) + 1]


def test_the_small_vmm_is_started_in_the_workdir(tmp_path: Path) -> None:
    plan = GuestPlan("nsvm-1-gw0", str(tmp_path), cpus=2, memory_mib=96)

    argv = carried_out(kvm().start_command(plan), tmp_path)

    assert argv[0] == "kvm"
    assert after(argv, "--name") == "guest=nsvm-1-gw0,"
    assert (after(argv, "--cpus"), after(argv, "--memory")) == ("2", "96")
    assert (after(argv, "--console"), after(argv, "--append")) == ("block", "console=block")
    assert "--clear" not in argv and "--module" not in argv
    assert argv[-1] == "executor.elf"


def test_the_shell_leads_to_the_vmm_and_is_gone() -> None:
    assert " && exec ./nsvm-host kvm " in kvm().start_command(GuestPlan("nsvm-1", "/run/nsvm"))


@pytest.mark.parametrize("vmm", ["small", "qemu"])
def test_hostile_arguments_stay_what_they_are(tmp_path: Path, vmm: str) -> None:
    folder = tmp_path / "it's $HOME"
    folder.mkdir()
    plan = GuestPlan("nsvm-1", str(folder), bundle=HOSTILE, extra_args=("-x", HOSTILE))

    argv = carried_out(kvm(vmm=vmm, vmm_args=(HOSTILE,)).start_command(plan), folder)

    assert argv.count(HOSTILE) == 3
    assert after(argv, "--module" if vmm == "small" else "-initrd") == HOSTILE
    assert after(argv, "-x") == HOSTILE


@pytest.mark.parametrize("name", ["", "-x", "a b", "a;b", "$(x)", "a\nb", "../a", "a,b", "x" * 200])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(TargetError, match="no name for a guest"):
        kvm().start_command(GuestPlan(name, "/run/nsvm"))
    with pytest.raises(TargetError, match="no name for a guest"):
        kvm().stop_script(name)


@pytest.mark.parametrize(
    ("without", "small", "qemu"),
    [
        (("NRIPS",), "8000000a.edx=8", "host,-nrip-save"),
        (("NRIPS", "VmcbClean"), "8000000a.edx=28", "host,-nrip-save,-vmcb-clean"),
        (("NP", "VGIF"), "8000000a.edx=10001", "host,-npt,-vgif"),
    ],
)
def test_masks(tmp_path: Path, without: tuple[str, ...], small: str, qemu: str) -> None:
    plan = GuestPlan("nsvm-1", str(tmp_path), without=without)

    assert after(carried_out(kvm().start_command(plan), tmp_path), "--clear") == small
    assert after(carried_out(kvm(vmm="qemu").start_command(plan), tmp_path), "-cpu") == qemu


def test_what_cannot_be_masked_is_named() -> None:
    with pytest.raises(TargetError, match="ROGPT"):
        kvm(vmm="qemu").start_command(GuestPlan("nsvm-1", "/run/nsvm", without=("ROGPT",)))
    with pytest.raises(TargetError, match="EPYC"):
        kvm().start_command(GuestPlan("nsvm-1", "/run/nsvm", cpu="EPYC"))


def test_qemu_is_on_the_leash(tmp_path: Path) -> None:
    plan = GuestPlan("nsvm-1", str(tmp_path), cpu="EPYC", cpus=2, bundle="/run/nsvm/bundle-0")

    argv = carried_out(kvm(vmm="qemu", vmm_path="/opt/qemu").start_command(plan), tmp_path)

    assert argv[0] == "leash"
    qemu = argv[argv.index("--") + 1 :]
    assert qemu[0] == "/opt/qemu"
    assert after(qemu, "-name").startswith("guest=nsvm-1,")
    assert (after(qemu, "-accel"), after(qemu, "-cpu"), after(qemu, "-smp")) == ("kvm", "EPYC", "2")
    assert after(qemu, "-chardev") == "stdio,id=console,signal=off"
    assert "virtconsole,chardev=console" in qemu and after(qemu, "-append") == "console=virtio"
    assert "-no-reboot" in qemu and "-monitor" not in qemu


Guest = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def guest() -> Iterator[Guest]:
    """Processes that look like guests."""
    made: list[subprocess.Popen[bytes]] = []

    def start(name: str, *, program: str = "nsvm-host", stubborn: bool = False) -> subprocess.Popen[bytes]:
        ignore = "signal.signal(15, signal.SIG_IGN); " if stubborn else ""
        code = f"import signal, time; {ignore}print('up', flush=True); time.sleep(60)"
        argv = [sys.executable, "-c", code, program, processes.mark(name)]
        made.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
        assert made[-1].stdout is not None
        made[-1].stdout.readline()
        return made[-1]

    yield start
    for one in made:
        one.kill()
        one.communicate(timeout=10)


def shell(argv: list[str], script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*argv, "-c", script], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("sh", SHELLS, ids=" ".join)
def test_guests_are_found_and_ended_by_name(guest: Guest, sh: list[str]) -> None:
    ours = f"nsvm-{os.getpid()}"
    first, second = guest(f"{ours}-0"), guest(f"{ours}-1", program="/usr/bin/qemu-system-x86_64")
    guest("someone-elses")

    listed = shell(sh, kvm().leftovers_script())
    assert listed.returncode == 0
    assert [name for name in listed.stdout.split() if name.startswith(ours)] == [f"{ours}-0", f"{ours}-1"]
    assert all(name.startswith("nsvm-") and "*" not in name for name in listed.stdout.split())

    stopped = shell(sh, kvm().stop_script(f"{ours}-0"))
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert first.wait(20) == -15
    assert second.poll() is None, "a name that begins alike is another's"
    assert shell(sh, kvm().stop_script(f"{ours}-0")).returncode == 0, "nothing to end is no error"


@pytest.mark.parametrize("sh", SHELLS, ids=" ".join)
def test_the_scripts_do_not_find_themselves(sh: list[str]) -> None:
    name = f"nsvm-{os.getpid()}-x"

    assert shell(sh, f"{kvm().stop_script(name)} && echo never").returncode == 0
    assert name not in shell(sh, f"{kvm().leftovers_script()}; : {name}").stdout


def test_a_guest_that_will_not_end_is_killed(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_TICKS", 3)
    stubborn = guest("nsvm-stubborn", stubborn=True)

    assert shell(["sh"], kvm().stop_script("nsvm-stubborn")).returncode == 0
    wait_until(lambda: stubborn.poll() == -9)


@pytest.mark.parametrize(
    ("log", "status", "reason"),
    [
        ("nsvm-host: the console was closed\n", 0, None),
        ("x\nnsvm-host: SHUTDOWN (triple fault); CPU 0 at 8:1\n", 10, "KVM: SHUTDOWN (triple fault); CPU 0 at 8:1"),
        ("", 10, "KVM: triple fault"),
        ("", 137, "the VMM was killed (signal 9)"),
        ("", -1, "the VMM was killed"),
        ("", None, None),
    ],
)
def test_what_the_small_vmm_died_of(log: str, status: int | None, reason: str | None) -> None:
    assert kvm().exit_reason(log, status) == reason


@pytest.mark.parametrize(
    ("log", "status", "reason"),
    [
        ("", 0, "QEMU: the guest reset the machine (triple fault or reset)"),
        ("KVM internal error. Suberror: 1\nRAX=0\n", None, "QEMU: KVM internal error. Suberror: 1"),
        ("qemu: could not load kernel\n", 1, "QEMU ended with 1: qemu: could not load kernel"),
        ("", 139, "the VMM was killed (signal 11)"),
        ("", None, None),
    ],
)
def test_what_qemu_died_of(log: str, status: int | None, reason: str | None) -> None:
    assert kvm(vmm="qemu").exit_reason(log, status) == reason


@pytest.mark.parametrize(
    ("release", "build", "text", "number"),
    [
        (
            "6.1.0-56-cloud-amd64",
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-01)",
            "KVM of Linux 6.1.192-2 (6.1.0-56-cloud-amd64)",
            (6, 1, 192),
        ),
        ("6.14.0-rc3+", "#1 SMP", "KVM of Linux 6.14.0-rc3+", (6, 14, 0)),
        ("", "", "KVM of Linux ", ()),
    ],
)
def test_version(release: str, build: str, text: str, number: tuple[int, ...]) -> None:
    assert version(release, build) == (text, number)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"vendor": "HygonGenuine", "nested": "Y"}, None),
        ({"vendor": "GenuineIntel"}, "not AMD (GenuineIntel)"),
        ({"svm": None}, "firmware's setup"),
        ({"kvm": None, "open": None, "nested": ""}, "modprobe kvm_amd nested=1"),
        ({"open": None, "user": "eve"}, "usermod -aG kvm eve"),
        ({"nested": "0"}, "modprobe -r kvm_amd && modprobe kvm_amd nested=1"),
    ],
)
def test_what_is_missing_and_what_mends_it(change: dict[str, str | None], says: str | None) -> None:
    facts = {key: value for key, value in {**READY, **change}.items() if value is not None}

    lines = missing(facts, HostSpec("host"))

    assert len(lines) == (says is not None)
    assert says is None or says in lines[0]


def test_qemu_is_missing_only_where_it_is_wanted() -> None:
    assert missing(READY, HostSpec("host", vmm="qemu", vmm_path="/opt/q")) == [
        "there is no /opt/q: apt install qemu-system-x86, or use vmm = small"
    ]
    assert missing({**READY, "qemu": "/opt/q"}, HostSpec("host", vmm="qemu")) == []
