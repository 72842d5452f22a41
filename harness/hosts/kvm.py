"""KVM as L0. A guest is one process: our own small VMM, which needs nothing on the host, or the host's QEMU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness.hosts import processes, program
from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.l0 import GuestPlan
from harness.hosts.spec import HostSpec
from harness.machine import feature_mask
from harness.machine.base import TargetError, TargetOptions

QEMU = "qemu-system-x86_64"
SVM_LEAF = 0x8000000A
KILLED = 128
GRACE_MS = 1000
ENDS = {10: "triple fault", 11: "reset"}
"""Exit statuses of `nsvm-host kvm` that the guest brought about; host.h has them all."""

FACTS = r"""
echo "vendor=$(sed -n 's/^vendor_id[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
grep -qw svm /proc/cpuinfo && echo svm=1
[ -c /dev/kvm ] && echo kvm=1
[ -r /dev/kvm ] && [ -w /dev/kvm ] && echo open=1
echo "nested=$(cat /sys/module/kvm_amd/parameters/nested 2>/dev/null)"
echo "qemu=$(command -v QEMU)"
id -un | sed 's/^/user=/'
"""
"""What missing() asks for; `QEMU` is put in."""


class Kvm:
    """See L0."""

    kind = "kvm"

    def __init__(self, spec: HostSpec, options: TargetOptions) -> None:
        self._spec = spec
        self._executor = options.executor_elf

    def files(self) -> Mapping[str, bytes | Path]:
        """See L0."""
        return {program.NAME: program.program(), program.EXECUTOR: self._executor}

    def version(self, host: Connection) -> tuple[str, tuple[int, ...]]:
        """See L0."""
        ran = host.run("uname -r && uname -v")
        if ran.status != 0:
            raise HostError(f"host {host.name}: uname says nothing: {ran.complaint}")
        return version(*([*ran.text.splitlines(), "", ""])[:2])

    def start_command(self, guest: GuestPlan) -> str:
        """See L0."""
        program.check_name(guest.name)
        try:
            argv = self._qemu(guest) if self._spec.vmm == "qemu" else self._small(guest)
        except feature_mask.MaskError as error:
            raise TargetError(f"host {self._spec.name}: {error}") from None
        return program.in_workdir(guest.workdir, argv)

    def stop_script(self, name: str) -> str:
        """See L0."""
        return processes.stop_script(program.check_name(name))

    def leftovers_script(self) -> str:
        """See L0."""
        return processes.list_script()

    def exit_reason(self, log: str, status: int | None) -> str | None:
        """See L0."""
        if self._spec.vmm == "qemu":
            return _qemu_reason(log, status)
        said = program.last_words(log, "nsvm-host: ")
        if status == 0:
            return None  # it was asked to end
        if said is not None:
            return f"KVM: {said}"
        if status in ENDS:
            return f"KVM: {ENDS[status]}"
        return _killed(status)

    def missing(self, host: Connection) -> list[str]:
        """See L0."""
        ran = host.run(FACTS.replace("QEMU", program.words([self._spec.vmm_path or QEMU])))
        facts = dict(line.split("=", 1) for line in ran.text.splitlines() if "=" in line)
        return missing(facts, self._spec)

    def _small(self, guest: GuestPlan) -> list[str]:
        if guest.cpu is not None:
            raise TargetError(f"host {self._spec.name}: vmm = small takes no CPU model ({guest.cpu}); use vmm = qemu")
        argv = [self._spec.vmm_path or f"./{program.NAME}", "kvm", "--name", processes.mark(guest.name)]
        argv += ["--cpus", str(guest.cpus), "--memory", str(guest.memory_mib)]
        if mask := feature_mask.edx_mask(guest.without):
            argv += ["--clear", f"{SVM_LEAF:x}.edx={mask:x}"]
        if guest.bundle is not None:
            argv += ["--module", guest.bundle]
        argv += ["--console", "block", "--append", "console=block"]
        return [*argv, *self._spec.vmm_args, *guest.extra_args, program.EXECUTOR]

    def _qemu(self, guest: GuestPlan) -> list[str]:
        cpu = feature_mask.qemu_cpu(guest.cpu or "host", guest.without)
        argv = [self._spec.vmm_path or QEMU, "-name", processes.mark(guest.name) + "debug-threads=off"]
        argv += ["-accel", "kvm", "-M", "pc", "-cpu", cpu, "-m", f"{guest.memory_mib}M", "-smp", str(guest.cpus)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"]
        # A UART would cost several exits for each byte, with a thread switch in QEMU: 1 ms where the host is emulated.
        argv += ["-chardev", "stdio,id=console,signal=off"]
        argv += ["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=console"]
        argv += ["-kernel", program.EXECUTOR, "-append", "console=virtio"]
        if guest.bundle is not None:
            argv += ["-initrd", guest.bundle]
        return program.leash([*argv, *self._spec.vmm_args, *guest.extra_args], grace_ms=GRACE_MS)


def version(release: str, build: str) -> tuple[str, tuple[int, ...]]:
    """From what `uname` says. A distribution's version is more exact than the name of its kernel."""
    packaged = re.search(r"\b(?:Debian|Ubuntu) (\d+\.\d+\.\d+\S*)", build)
    number = packaged[1] if packaged else release
    found = re.match(r"\d+(\.\d+)*", number)
    parts = tuple(map(int, found[0].split("."))) if found else ()
    return f"KVM of Linux {number}" + (f" ({release})" if packaged else ""), parts


def missing(facts: Mapping[str, str], spec: HostSpec) -> list[str]:
    """One line for each thing that is not as it must be, and how to mend it."""
    lines = []
    if facts.get("vendor") not in ("AuthenticAMD", "HygonGenuine"):
        return [f"the CPU is not AMD ({facts.get('vendor') or 'unknown'}): nested SVM needs an AMD host"]
    if "svm" not in facts:
        return ["the CPU shows no SVM: switch SVM (AMD-V) on in the firmware's setup"]
    if "kvm" not in facts:
        lines.append("there is no /dev/kvm: modprobe kvm_amd nested=1")
    elif "open" not in facts:
        user = facts.get("user", "USER")
        lines.append(f"/dev/kvm may not be opened by {user}: usermod -aG kvm {user} (and connect again), or be root")
    if "kvm" in facts and facts.get("nested") not in ("1", "Y"):
        lines.append("KVM offers no nested SVM: modprobe -r kvm_amd && modprobe kvm_amd nested=1 (no guest may run)")
    if spec.vmm == "qemu" and not facts.get("qemu"):
        name = spec.vmm_path or QEMU
        lines.append(f"there is no {name}: apt install qemu-system-x86, or use vmm = small")
    return lines


def _qemu_reason(log: str, status: int | None) -> str | None:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in lines:
        if "KVM internal error" in line or "hardware error" in line:
            return f"QEMU: {line[:300]}"
    if status == 0:
        return "QEMU: the guest reset the machine (triple fault or reset)"
    return _killed(status) or (f"QEMU ended with {status}: {lines[-1][:300]}" if lines else None)


def _killed(status: int | None) -> str | None:
    if status is None or KILLED >= status >= 0:
        return None
    return "the VMM was killed" + (f" (signal {status - KILLED})" if status > KILLED else "")
