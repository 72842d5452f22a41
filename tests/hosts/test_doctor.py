"""What a host lacks is said, a line each, with the line that mends it; and nothing is changed there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.cli import doctor_host, machine
from harness.cli.doctor_host import Report, as_object, examine
from harness.command import main
from harness.hosts import facts as facts_module
from harness.hosts.connection import Connection
from harness.hosts.cpu_bits import of_cpuinfo, of_edx, of_xen_log
from harness.hosts.doctor import HostFinding, findings, ready
from harness.hosts.facts import ask, commands
from harness.hosts.spec import HostSpec
from tests.hosts.sshd import Sshd

CPU = """\
processor : 0
vendor_id : AuthenticAMD
model name : AMD EPYC 7302P 16-Core Processor
flags : fpu svm npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter avic"""

KVM: Mapping[str, str] = {
    "user": "0 root\nroot",
    "kernel": "6.1.0-54-amd64\nLinux version 6.1.0-54-amd64",
    "cpu": CPU,
    "cpus": "32",
    "memory": "MemTotal:  65000000 kB\nMemFree:  100 kB\nMemAvailable:  60000000 kB",
    "mounts": "rootfs / rootfs rw 0 0\ntmpfs /run tmpfs rw,nosuid,nodev 0 0\ntmpfs /x tmpfs rw,noexec 0 0",
    "log": "kmsg",
    "tainted": "0",
    "xen": "",
    "kvm_amd": "avic=N\nlbrv=1\nnested=1\nnpt=Y\nnrips=1",
    "module": "/sys/module/kvm_amd\n/lib/modules/6.1.0-54-amd64/kernel/arch/x86/kvm/kvm-amd.ko",
    "device": "crw-rw---- 1 0 107 10, 232 Nov 20 10:00 /dev/kvm\nopens\nkvm",
    "firmware": "",
    "tracing": "/sys/kernel/tracing\nwritable\nkvm",
    "qemu": "/usr/bin/qemu-system-x86_64\nQEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)",
    "workdir": "/run\nwritable\ntmpfs 6500000 1000 6400000 1% /run",
    "lease": "",
}

XEN: Mapping[str, str] = {
    **{name: KVM[name] for name in ("user", "kernel", "cpu", "cpus", "memory", "mounts", "log", "tainted", "workdir")},
    "lease": "",
    "qemu": "",
    "xen": "xen\ncontrol_d",
    "xl": "/usr/sbin/xl\nhost : zen\nxen_major : 4\nxen_minor : 17\nxen_extra : .5\n"
    "virt_caps : pv hvm hap gnttab-v1 gnttab-v2\nfree_memory : 60000\nxen_commandline : dom0_mem=4096M",
    "features": "(XEN) SVM: Supported advanced features:\n(XEN)  - Nested Page Tables (NPT)\n"
    "(XEN)  - Next-RIP Saved on #VMEXIT\n(XEN)  - DecodeAssists",
    "commandline": "dom0_mem=4096M",
}

SPEC = HostSpec("zen3-a")
XEN_SPEC = HostSpec("zen3-x", l0="xen")


def wrong(facts: Mapping[str, str], spec: HostSpec, **changed: str) -> list[HostFinding]:
    """What is found missing with these answers changed."""
    return [finding for finding in findings({**facts, **changed}, spec) if finding.ok is False]


def test_hosts_that_have_all_are_ready() -> None:
    for facts, spec in ((KVM, SPEC), (XEN, XEN_SPEC)):
        assert ready(findings(facts, spec))
        assert wrong(facts, spec) == []


@pytest.mark.parametrize(
    ("changed", "what", "detail", "mend"),
    [
        ({"kvm_amd": "nested=0\nnpt=Y"}, "nested", "nested=0", "modprobe -r kvm_amd && modprobe kvm_amd nested=1"),
        ({"kvm_amd": "nested=0"}, "nested", "nested=0", "/etc/modprobe.d/nsvm.conf"),
        ({"kvm_amd": "nested=N"}, "nested", "nested=N", "modprobe"),
        ({"module": "/lib/x.ko", "kvm_amd": ""}, "kvm_amd", "not loaded", "modprobe kvm_amd nested=1"),
        ({"module": ""}, "kvm_amd", "seems to have none", "modprobe kvm_amd"),
        ({"device": ""}, "/dev/kvm", "not there", "modprobe"),
        (
            {"device": "crw-rw---- /dev/kvm\nkvm", "user": "1000 ann\nann"},
            "/dev/kvm",
            "ann may not",
            "usermod -aG kvm ann",
        ),
        ({"cpu": CPU.replace("AuthenticAMD", "GenuineIntel")}, "CPU", "GenuineIntel", ""),
        ({"cpu": CPU.replace(" svm ", " ")}, "SVM", "shows none", "firmware's setup"),
        ({"firmware": "[1.0] kvm: disabled by bios"}, "SVM", "VM_CR.SVMDIS", "firmware's setup"),
        ({"memory": "MemAvailable:  50000 kB"}, "memory", "48 MiB free, 96 wanted", "set workers"),
        ({"workdir": "/run"}, "workdir", "may not write to /run", "set workdir"),
        ({"workdir": "/run\nwritable\ntmpfs 10 5 5 50% /run"}, "workdir", "5 KiB free", "make room"),
        ({"workdir": "/x\nwritable\ntmpfs 99999 5 99999 1% /x"}, "workdir", "noexec", "set workdir"),
        ({"user": ""}, "host", "does not answer as Linux", "POSIX"),
    ],
)
def test_what_a_kvm_host_lacks(changed: dict[str, str], what: str, detail: str, mend: str) -> None:
    found = wrong(KVM, SPEC, **changed)
    assert found[0].what == what
    assert detail in found[0].detail
    assert mend in found[0].mend


def test_qemu_is_needed_only_where_it_is_the_vmm() -> None:
    assert wrong(KVM, SPEC, qemu="") == []
    found = wrong(KVM, HostSpec("z", vmm="qemu"), qemu="")
    assert [f.what for f in found] == ["QEMU"] and "apt-get install qemu-system-x86" in found[0].mend
    assert wrong(KVM, HostSpec("z", vmm="qemu")) == []
    [found] = wrong(KVM, HostSpec("z", vmm="qemu"), qemu="/usr/libexec/qemu-kvm\nQEMU emulator version 9.0.0")
    assert found.mend == 'set vmm_path = "/usr/libexec/qemu-kvm"'


def test_what_is_worth_knowing_stops_nothing() -> None:
    changed = {"tracing": "", "log": "", "tainted": "4608", "kvm_amd": "nested=1\nnpt=0\nnrips=0\navic=N"}
    found = findings({**KVM, **changed}, SPEC)
    assert ready(found)
    told = {f.what: f for f in found if f.ok is None}
    assert "mount -t tracefs" in told["tracing"].mend
    assert "would not be seen" in told["kernel log"].detail
    assert "W (a warning), O" in told["taint"].detail
    assert "NP" in told["npt"].detail
    assert "nrips=1" in told["parameters"].mend


@pytest.mark.parametrize(
    ("changed", "what", "detail", "mend"),
    [
        ({"xen": "", "xl": ""}, "Xen", "does not run below Xen", "boot the Xen entry"),
        ({"xen": "xen"}, "dom0", "not dom0", "address of dom0"),
        ({"xl": ""}, "xl", "there is no xl", "xen-utils"),
        ({"xl": "/usr/sbin/xl\nxc: error: Could not obtain handle"}, "xl", "Could not obtain handle", "root"),
        ({"xl": XEN["xl"].replace(" hap", ""), "commandline": "hap=0"}, "HAP", "off", "hap=0: remove it"),
        ({"xl": XEN["xl"].replace(" hap", "")}, "HAP", "off", "no NP"),
        ({"xl": XEN["xl"].replace("hvm ", "")}, "HVM", "cannot run HVM", "firmware"),
        ({"xl": XEN["xl"].replace(": 60000", ": 40")}, "memory", "40 MiB of Xen's are free", "xl mem-set"),
        ({"xl": XEN["xl"].replace("minor : 17", "minor : 20")}, "nestedhvm", "wants LbrVirt FlushByAsid", "older Xen"),
    ],
)
def test_what_a_xen_host_lacks(changed: dict[str, str], what: str, detail: str, mend: str) -> None:
    found = wrong(XEN, XEN_SPEC, **changed)
    assert found[0].what == what
    assert detail in found[0].detail
    assert mend in found[0].mend


def test_an_hvm_guest_needs_the_qemu_that_xl_takes() -> None:
    hvm = HostSpec("zen3-x", l0="xen", vmm="hvm")
    model = "/usr/libexec/xen-qemu-system-i386"
    assert wrong(XEN, hvm, model=f"{model}\nthere") == wrong(XEN, hvm, model="") == wrong(XEN, XEN_SPEC) == []
    [found] = wrong(XEN, hvm, model=model)
    assert f"there is no {model}" in found.detail and "apt-get install qemu-system-xen" in found.mend
    own = HostSpec("zen3-x", l0="xen", vmm="hvm", vmm_args=('device_model_override="/opt/qemu"',))
    assert wrong(XEN, own) == []
    assert [("model" in commands(spec)) for spec in (hvm, own, XEN_SPEC)] == [True, False, False]


def test_who_has_the_host_is_told() -> None:
    lease = "r17\nb00t\n2026-11-22 10:00:00\nann@desk\nnow\n1000\nb00t\n970         \ngone        \n997         \n"
    [found] = wrong(KVM, SPEC, lease=lease)
    assert found.detail == "in use by ann@desk, run r17, since 2026-11-22 10:00:00, last sign of life 3 s ago"
    for dead in (
        lease.replace("997 ", "900 ").replace("970 ", "900 "),
        lease.replace("now\n1000\nb00t", "now\n5\nother"),
    ):
        assert wrong(KVM, SPEC, lease=dead) == []
    assert wrong(KVM, SPEC, lease="\x1b[2J garbage") == []


def test_bits_by_the_names_of_linux_and_of_xen() -> None:
    assert of_cpuinfo(CPU)[:4] == ["NP", "LbrVirt", "SVML", "NRIPS"]
    assert of_cpuinfo("") == []
    assert of_xen_log(XEN["features"]) == ["NP", "NRIPS", "DecodeAssists"]
    assert of_edx(0x31) == ["NP", "TscRateMsr", "VmcbClean"]


def test_hostile_answers_are_harmless() -> None:
    evil = "\\x1b[2J" + "A" * 100_000 + "\n\n:\n=\n" + "%s %d {0} $(id) `id`"
    for facts, spec in ((KVM, SPEC), (XEN, XEN_SPEC)):
        for name in facts:
            for text in (evil, "", "\n", "0", ":", "=", "a b c d e f"):
                report = Report("host:x", findings({**facts, name: text}, spec))
                told = json.dumps(as_object(report))
                assert len(told) < 30_000


def test_a_real_shell_answers_and_nothing_is_left(tmp_path: Path) -> None:
    sshd = Sshd(tmp_path / "ssh")
    try:
        for l0 in ("kvm", "xen"):
            spec = sshd.spec(l0=l0)
            with Connection(spec) as host:
                answers = ask(host, spec)
            assert set(answers) == set(commands(spec))
            assert answers["user"].split()[0].isdecimal()
            assert "vendor_id : " in answers["cpu"]
            assert answers["workdir"].splitlines()[1] == "writable"
            assert findings(answers, spec)
            assert not Path(spec.workdir).exists()
    finally:
        sshd.stop()


def test_the_command_says_what_is_missing_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd = Sshd(tmp_path / "ssh")
    lab = tmp_path / "lab.toml"
    lab.write_text(
        f'[host.here]\naddress = "127.0.0.1"\nport = {sshd.port}\nidentity_files = ["{sshd.user_key}"]\n'
        f'known_hosts = ["{sshd.known_hosts}"]\nuse_agent = false\n'
        f'use_ssh_config = false\nworkdir = "{tmp_path}/work"\n'
    )
    monkeypatch.setenv("NSVM_LAB", str(lab))
    monkeypatch.setattr(doctor_host, "ask", lambda host, spec: {**facts_module.ask(host, spec), **KVM, "device": ""})
    try:
        assert main(["doctor", "--target", "host:here"]) == 2
        told = capsys.readouterr().out
        assert "NOT ready" in told and "ok       connection   " in told
        assert "missing  /dev/kvm     it is not there" in told and "-> modprobe kvm_amd nested=1" in told
        assert "no guest was started: first the above" in told
        assert main(["doctor", "--target", "host:here", "--json", "--no-boot"]) == 2
        told_json = json.loads(capsys.readouterr().out)
        assert told_json["ready"] is False and told_json["edx"] is None
        monkeypatch.setattr(doctor_host, "ask", lambda host, spec: dict(KVM))
        assert main(["doctor", "--target", "host:here", "--no-boot"]) == 0
    finally:
        sshd.stop()
    report = examine("host:here", machine.Programs(), boot=True)
    assert [finding.ok for finding in report.found] == [False]
    assert "refuses the connection" in report.found[0].detail


def test_what_is_no_host_is_wrong_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSVM_LAB", "/nonexistent/lab.toml")
    for name in ("vax", "qemu-tcg", "host:nobody", "ssh://a:b@c"):
        assert main(["doctor", "--target", name]) == 2
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == 1, said.err
