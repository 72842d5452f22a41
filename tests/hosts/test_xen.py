"""Xen as L0: the configuration, a guest's life with a toolstack that pretends, what it died of, what is missing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hosts.l0 import GuestPlan
from harness.hosts.spec import HostSpec
from harness.hosts.xen import Xen, missing
from harness.hosts.xen_config import end_of
from harness.machine.base import TargetError, TargetOptions
from tests.hosts.vmm import built, wait_until

READY = {
    "vendor": "AuthenticAMD",
    "control": "control_d",
    "xl": "/usr/sbin/xl",
    "xenstore": "/usr/bin/xenstore-read",
    "root": "1",
    "xen_version": "4.17.7",
    "virt_caps": "pv hvm hap gnttab-v1",
    "free_memory": "500",
}

XL = """#!/bin/sh
# One domain: it runs as long as the file is there.
case $1 in
create) [ ! -e "$STATE/refuse" ] || { cat "$STATE/refuse"; exit 1; }
        cp "$3" "$STATE/config"; echo 7 > "$STATE/domain"; echo "Waiting for domain to die"
        while [ -e "$STATE/domain" ]; do sleep 0.02; done; cat "$STATE/why" 2>/dev/null;;
domid) [ -e "$STATE/domain" ] || exit 1; cat "$STATE/domain";;
destroy) echo x >> "$STATE/destroyed"; rm -f "$STATE/domain";;
list) echo "Name ID Mem"; echo "Domain-0 0 256"
      [ ! -e "$STATE/domain" ] || echo "nsvm-1 7 64"; echo "other-nsvm-2 8 64";;
esac
"""
XENSTORE_READ = '#!/bin/sh\n[ "$1" = /local/domain/7/console/tty ] && cat "$STATE/tty"\n'


def xen(**spec: object) -> Xen:
    options = TargetOptions(Path("/none"), Path("/none/executor.elf"), Path("/none/disk.img"))
    return Xen(HostSpec("host", l0="xen", **spec), options)  # type: ignore[arg-type]


class Toolstack:
    """xl and xenstore-read that pretend; the domain's console is our terminal."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.workdir = folder / "work dir's"
        tools = folder / "tools"
        for made in (self.state, self.workdir, tools):
            made.mkdir()
        for name, text in (("xl", XL), ("xenstore-read", XENSTORE_READ)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        (self.workdir / "nsvm-host").symlink_to(built())
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        (self.state / "tty").write_text(os.ttyname(self.slave) + "\n")
        self.env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "STATE": str(self.state)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, l0: Xen, plan: GuestPlan) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            ["sh", "-c", l0.start_command(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
        )
        return self.process

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, timeout=20, check=False, env=self.env
        )

    def runs(self) -> bool:
        return (self.state / "domain").exists()

    def end(self, why: str) -> None:
        """The domain ends, and its terminal with it."""
        (self.state / "why").write_text(why + "\n")
        (self.state / "domain").unlink()
        self.hang_up()

    def hang_up(self) -> None:
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1

    def left(self) -> list[str]:
        return sorted(path.name for path in self.workdir.iterdir())


@pytest.fixture
def toolstack(tmp_path: Path) -> Iterator[Toolstack]:
    toolstack = Toolstack(tmp_path)
    yield toolstack
    toolstack.hang_up()
    (toolstack.state / "domain").unlink(missing_ok=True)
    if toolstack.process is not None:
        toolstack.process.kill()
        for pipe in (toolstack.process.stdin, toolstack.process.stdout, toolstack.process.stderr):
            assert pipe is not None
            pipe.close()
        toolstack.process.wait(10)


def config(toolstack: Toolstack, l0: Xen, plan: GuestPlan) -> dict[str, str]:
    """What xl was told."""
    toolstack.start(l0, plan)
    wait_until(lambda: toolstack.runs() and (toolstack.state / "config").exists())
    lines = (toolstack.state / "config").read_text().splitlines()
    return dict(line.split(" = ", 1) if " = " in line else line.split("=", 1) for line in lines)


def test_a_pvh_guest(toolstack: Toolstack) -> None:
    work = str(toolstack.workdir).replace("'", "")
    toolstack.workdir.rename(work)
    toolstack.workdir = Path(work)
    plan = GuestPlan("nsvm-1", work, cpus=2, memory_mib=96, bundle=f"{work}/bundle-0", extra_args=("pae=1",))

    told = config(toolstack, xen(vmm_args=('timer_mode="x"',)), plan)

    assert (told["type"], told["name"], told["memory"], told["vcpus"]) == ('"pvh"', '"nsvm-1"', "96", "2")
    assert (told["nestedhvm"], told["hap"], told["tsc_mode"]) == ("1", "1", '"native"')
    assert (told["kernel"], told["ramdisk"]) == (f'"{work}/executor.elf"', f'"{work}/bundle-0"')
    assert (told["timer_mode"], told["pae"]) == ('"x"', "1")
    assert {told[f"on_{event}"] for event in ("crash", "reboot", "poweroff", "watchdog")} == {'"destroy"'}
    assert "cpuid" not in told


def test_an_hvm_guest(toolstack: Toolstack) -> None:
    plan = plain(toolstack)
    told = config(toolstack, xen(vmm="hvm"), plan)

    disk = f"format=raw,vdev=sda,access=ro,backendtype=qdisk,target={plan.workdir}/disk.img"
    assert (told["type"], told["disk"], told["boot"]) == ('"hvm"', f'[ "{disk}" ]', '"c"')
    assert (told["nestedhvm"], told["vga"]) == ("1", '"none"')
    assert "kernel" not in told and "serial" not in told


@pytest.mark.parametrize(
    ("without", "policy"),
    [
        (("NP",), "x" * 31 + "0"),
        (("VmcbClean", "NRIPS"), "x" * 26 + "0x0xxx"),
        (("SVME_ADDR_CHK",), "xxx0" + "x" * 28),
    ],
)
def test_masks(without: tuple[str, ...], policy: str) -> None:
    command = xen().start_command(GuestPlan("nsvm-1", "/run/nsvm", without=without))

    assert f'cpuid = [ "0x8000000a:edx={policy}" ]' in command


@pytest.mark.parametrize("name", ["", "-x", "a b", "a;b", "$(x)", "a\nb", "a'b", 'a"b', "../a"])
def test_hostile_names_are_refused(name: str) -> None:
    for call in (lambda: xen().start_command(GuestPlan(name, "/run/nsvm")), lambda: xen().stop_script(name)):
        with pytest.raises(TargetError, match="no name for a guest"):
            call()


@pytest.mark.parametrize(
    ("plan", "l0"),
    [
        (GuestPlan("nsvm-1", "/run/it's"), xen()),
        (GuestPlan("nsvm-1", "/run/nsvm", bundle='x"\nkernel="y'), xen()),
        (GuestPlan("nsvm-1", "/run/nsvm", extra_args=("a=1\nb=2",)), xen()),
        (GuestPlan("nsvm-1", "/run/nsvm", extra_args=("-smp",)), xen()),
        (GuestPlan("nsvm-1", "/run/nsvm", cpu="EPYC"), xen()),
        (GuestPlan("nsvm-1", "/run/ns,vm"), xen(vmm="hvm")),
        (GuestPlan("nsvm-1", "/run/nsvm", bundle="/run/nsvm/b"), xen(vmm="hvm")),
    ],
)
def test_what_xl_cannot_be_told_is_refused(plan: GuestPlan, l0: Xen) -> None:
    with pytest.raises(TargetError):
        l0.start_command(plan)


def plain(toolstack: Toolstack) -> GuestPlan:
    work = toolstack.workdir.with_name("work")
    toolstack.workdir.rename(work)
    toolstack.workdir = work
    return GuestPlan("nsvm-1", str(work))


def test_the_console_passes_every_byte_both_ways(toolstack: Toolstack) -> None:
    process = toolstack.start(xen(), plain(toolstack))
    assert process.stdin is not None and process.stdout is not None
    data = bytes(range(256)) * 4

    os.write(toolstack.master, data)
    assert process.stdout.read(len(data)) == data
    process.stdin.write(b"\x1d")
    process.stdin.flush()
    assert os.read(toolstack.master, 100) == b"\x1d"
    assert process.poll() is None


def test_the_end_of_stdin_destroys_the_domain_and_leaves_nothing(toolstack: Toolstack) -> None:
    process = toolstack.start(xen(), plain(toolstack))
    assert process.stdin is not None
    wait_until(toolstack.runs)

    process.stdin.close()

    process.wait(10)
    assert not toolstack.runs()
    assert toolstack.left() == ["nsvm-host"]


def test_a_killed_leash_destroys_the_domain_all_the_same(toolstack: Toolstack) -> None:
    process = toolstack.start(xen(), plain(toolstack))
    wait_until(toolstack.runs)

    process.kill()

    wait_until(lambda: not toolstack.runs() and toolstack.left() == ["nsvm-host"])


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("Domain 7 has shut down, reason code 3 0x3", "Xen: the domain crashed"),
        ("Domain 7 has shut down, reason code 1 0x1", "Xen: the domain reset (triple fault or reboot)"),
        ("Domain 7 has been destroyed.", "Xen: the domain was destroyed"),
    ],
)
def test_a_domain_that_ends_says_why(toolstack: Toolstack, why: str, reason: str) -> None:
    process = toolstack.start(xen(), plain(toolstack))
    assert process.stdout is not None and process.stderr is not None
    os.write(toolstack.master, b"last words")
    assert process.stdout.read(10) == b"last words"

    toolstack.end(why)

    status = process.wait(10)
    assert xen().exit_reason(process.stderr.read().decode(), status) == reason


def test_a_domain_that_cannot_be_made_says_why(toolstack: Toolstack) -> None:
    (toolstack.state / "refuse").write_text("libxl: error: libxl_create.c:1:check: Domain 7:nested HVM: no\n")
    process = toolstack.start(xen(), plain(toolstack))
    assert process.stdout is not None and process.stderr is not None

    status = process.wait(10)

    assert process.stdout.read() == b"", "nothing of this is console output"
    reason = xen().exit_reason(process.stderr.read().decode(), status)
    assert reason == "Xen: the domain could not be made: Domain 7:nested HVM: no"


def test_the_device_model_says_why_and_its_log_is_removed(
    toolstack: Toolstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.hosts.xen.MODEL_LOG", f"{tmp_path}/qemu-dm-NAME.log")
    refusal = "libxl: error: libxl_create.c:1896:domcreate: Domain 7:device model did not start: -3"
    (toolstack.state / "refuse").write_text(f"libxl: error: libxl_qmp.c:1:fd: Domain 7:Connection reset\n{refusal}\n")
    log = tmp_path / "qemu-dm-nsvm-1.log"
    log.write_text("xen-qemu-system-i386: a warning\nxen-qemu-system-i386: -vnc none: could not read keymap file\n")
    other = tmp_path / "qemu-dm-nsvm-11.log"
    other.touch()

    process = toolstack.start(xen(vmm="hvm"), plain(toolstack))
    assert process.stderr is not None
    reason = xen().exit_reason(process.stderr.read().decode(), process.wait(10))

    told = "qemu-system-i386: -vnc none: could not read keymap file"
    assert reason == f"Xen: the domain could not be made: {told}"
    wait_until(lambda: not log.exists())
    log.touch()
    assert toolstack.shell(xen().stop_script("nsvm-1")).returncode == 0
    assert not log.exists() and other.exists()


def test_guests_are_found_and_ended_by_name(toolstack: Toolstack) -> None:
    toolstack.start(xen(), plain(toolstack))
    wait_until(toolstack.runs)

    assert toolstack.shell(xen().leftovers_script()).stdout == "nsvm-1\n"
    for _ in range(2):
        ran = toolstack.shell(xen().stop_script("nsvm-1"))
        assert (ran.returncode, ran.stderr) == (0, "")
        assert not toolstack.runs()
    assert toolstack.shell(xen().leftovers_script()).stdout == ""


def test_a_leash_that_outlives_its_domain_is_gone_before_the_next_guest(toolstack: Toolstack) -> None:
    """As after a cut line: what it does at its end is to destroy a domain of that name and to remove its files."""
    first = toolstack.start(xen(), plain(toolstack))
    wait_until(lambda: "nsvm-1.log" in toolstack.left() and toolstack.runs())
    toolstack.end("")
    first.send_signal(signal.SIGSTOP)  # it would end by itself now, but it is slow

    stopped = toolstack.shell(xen().stop_script("nsvm-1"))

    assert (stopped.returncode, stopped.stderr) == (0, "")
    first.send_signal(signal.SIGCONT)
    assert first.poll() is not None, "whoever starts the next guest must not meet it"
    for pipe in (first.stdin, first.stdout, first.stderr):
        assert pipe is not None
        pipe.close()


def test_nothing_is_known_of_a_domain_that_runs() -> None:
    assert end_of("Parsing config from nsvm-1.cfg\nWaiting for domain nsvm-1 (domid 1) to die [pid 9]\n") is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"vendor": "GenuineIntel"}, "not AMD"),
        ({"control": ""}, "xen-system-amd64"),
        ({"xl": ""}, "apt install xen-utils-common"),
        ({"xenstore": ""}, "apt install xenstore-utils"),
        ({"root": None}, "connect as root"),
        ({"xen_version": None}, "xl info says nothing"),
        ({"virt_caps": "pv"}, "firmware's setup"),
        ({"virt_caps": "pv hvm"}, "hap=0"),
        ({"model": "/usr/libexec/xen-qemu-system-i386"}, "apt install qemu-system-xen"),
        ({"model": "/usr/libexec/xen-qemu-system-i386", "model_there": "there"}, None),
        ({"free_memory": "60"}, "xl mem-set 0"),
    ],
)
def test_what_is_missing_and_what_mends_it(change: dict[str, str | None], says: str | None) -> None:
    facts = {key: value for key, value in {**READY, **change}.items() if value is not None}

    lines = missing(facts, HostSpec("host", l0="xen"))

    assert len(lines) == (says is not None)
    assert says is None or says in lines[0]
