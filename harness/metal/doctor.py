"""What a machine lacks to be driven: its console, its power, its way to boot; one finding a line, with what mends it.

Looks, and changes nothing: no power is switched, nothing is written.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.hosts.connection import Connection
from harness.hosts.cpu_bits import LINUX
from harness.hosts.errors import HostError
from harness.hosts.finding import HostFinding
from harness.hosts.lab import LabError
from harness.hosts.lab import find as find_host
from harness.hosts.sections import Sections
from harness.machine.base import ConsoleClosed
from harness.metal import boot as boots
from harness.metal import power as powers
from harness.metal.consoles import open_console
from harness.metal.error import MetalError
from harness.metal.lease import Lease
from harness.metal.looks import Looks
from harness.metal.spec import MetalSpec
from harness.text import printable

LISTEN_S = 2.0
ASK_S = 30.0

_ASKED = {
    "kernel": "uname -r",
    "user": "id -u",
    "cmdline": "cat /proc/cmdline",
    "cpu": "sed '/^$/q' /proc/cpuinfo",
    "kexec": "",  # the program that the lab file names
    "kexec_off": "cat /proc/sys/kernel/kexec_load_disabled",
    "has_kexec": "ls /sys/kernel/kexec_loaded",
    "lockdown": "cat /sys/kernel/security/lockdown",
    "secure_boot": "od -An -t u1 -j 4 -N 1 /sys/firmware/efi/efivars/SecureBoot-*",
    "svm_off": "dmesg | grep -i -e 'disabled by bios' -e 'disabled (by bios)' | tail -n 1",
    "iommu": "ls /sys/class/iommu",
    "encrypt": "dmesg | grep -i -m 1 'AMD Memory Encryption Features active'",
    "firmware": "cat /sys/class/dmi/id/bios_vendor /sys/class/dmi/id/bios_version /sys/class/dmi/id/bios_date",
    "efi": "ls -d /sys/firmware/efi",
    "grub": "command -v grub-reboot || command -v grub2-reboot; grep -h ^GRUB_DEFAULT /etc/default/grub",
}


def findings(spec: MetalSpec) -> Iterator[HostFinding]:
    """All that is found, in the order of a run."""
    lease = Lease(spec.name)
    try:
        lease.take()
    except MetalError as error:
        yield HostFinding(False, "lease", str(error))
        return  # somebody's console is not ours to open
    try:
        yield HostFinding(True, "lease", "nobody has the machine")
        yield from _console(spec)
        yield from _power(spec)
        yield from _boot(spec)
    finally:
        lease.release()


def _console(spec: MetalSpec) -> Iterator[HostFinding]:
    looks = Looks(spec.own_os)
    try:
        console = open_console(spec.what, spec.console, spec.baud)
    except MetalError as error:
        yield HostFinding(False, "console", str(error), "console = of the lab file: docs/bare-metal.md has the kinds")
        return
    try:
        console.write(b"\r", LISTEN_S)  # a login prompt says something to that
        end = time.monotonic() + LISTEN_S
        while (left := end - time.monotonic()) > 0:
            looks.add(console.read(left))
    except ConsoleClosed as error:
        yield HostFinding(False, "console", f"it opens, and closes: {error}", "who else has it open?")
        return
    finally:
        console.close()
    if not looks.total:
        yield HostFinding(
            None, "console", f"opens, and says nothing within {LISTEN_S:.0f} s",
            "is a getty on that line? Else the first boot will show whether it is the right one",
        )  # fmt: skip
    elif "garbage" in (said := looks.in_words(spec.baud)):
        yield HostFinding(False, "console", said, "baud = of the lab file, as in the firmware's setup and console=")
    else:
        last = [line for line in looks.text().splitlines() if line.strip()][-1:] or [""]
        yield HostFinding(True, "console", f"{looks.total} bytes; the last line: {last[0].strip()[:100]}")


def _power(spec: MetalSpec) -> Iterator[HostFinding]:
    try:
        power = powers.from_table(f"{spec.what}: power", spec.power)
        state = power.state()
    except MetalError as error:
        mend = "apt-get install ipmitool" if "ipmitool: No such file" in str(error) else ""
        yield HostFinding(False, "power", str(error), mend)
        return
    driver = spec.power["driver"]
    if state is None:
        yield HostFinding(
            None, "power", f"{driver} cannot say whether it is on, and is not tried: that would switch it off",
            'add state_command = "..." if a command can tell' if driver == "command" else "",
        )  # fmt: skip
    else:
        yield HostFinding(True, "power", f"{driver} says that it is {'on' if state else 'off'}")


def _boot(spec: MetalSpec) -> Iterator[HostFinding]:
    try:
        boot = boots.from_table(f"{spec.what}: boot", spec.boot)
    except MetalError as error:
        yield HostFinding(False, "boot", str(error))
        return
    if spec.host:
        yield from _own_os(spec)
    elif boot.needs_os:
        yield HostFinding(
            False, "own OS", "its own OS is not known", f'host = "NAME" of a [host.NAME], in [metal.{spec.name}]'
        )
    if isinstance(boot, boots.Files):
        folder = Path(boot.folder).expanduser()
        if folder.is_dir() and os.access(folder, os.W_OK):
            yield HostFinding(True, "boot", f"{folder} can be written; the machine must boot from the network first")
        else:
            yield HostFinding(
                False, "boot", f"{folder} cannot be written", f"mkdir -p {folder}, as the user who runs this"
            )
    elif isinstance(boot, boots.Media):
        yield from _media(boot)
    elif isinstance(boot, boots.Command):
        yield HostFinding(None, "boot", "a command, which is not tried: the next boot would be ours")


def _media(boot: boots.Media) -> Iterator[HostFinding]:
    try:
        inserted = boot.inserted()
    except MetalError as error:
        yield HostFinding(False, "boot", str(error))
        return
    yield HostFinding(True, "boot", f"virtual drive {boot.device} is there, {'in use' if inserted else 'empty'}")
    if shutil.which("grub-mkrescue") is None:
        packages = "grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools"
        yield HostFinding(False, "image", "grub-mkrescue is not here", f"apt-get install {packages}")


def _own_os(spec: MetalSpec) -> Iterator[HostFinding]:
    try:
        with Connection(find_host(spec.host)) as host:
            program = shlex.quote(str(spec.boot.get("kexec", "kexec")))
            sections = Sections(_ASKED | {"kexec": f"command -v {program} && {program} --version"})
            came = sections.split(host.run(sections.script(), deadline_s=ASK_S).out)
    except (HostError, LabError) as error:
        yield HostFinding(
            False, "own OS", str(error), f"./nsvm doctor --target host:{spec.host} says more; is it switched on?"
        )
        return
    yield from of_own_os({name: printable(came.get(name, b""), 16384).strip() for name in _ASKED}, spec)


def of_own_os(facts: Mapping[str, str], spec: MetalSpec) -> Iterator[HostFinding]:
    """What its own Linux says of the machine."""
    root = facts["user"] == "0"
    told = f"Linux {facts['kernel']}, {'root' if root else 'not root'}"
    yield HostFinding(root, "own OS", told, "" if root else f"user = root in [host.{spec.host}]")
    split = [line.partition(":") for line in facts["cpu"].splitlines()]
    cpu = {key.strip(): value.strip() for key, _, value in split}
    flags = cpu.get("flags", "").split()
    yield HostFinding(None, "CPU", _cpu(cpu))
    if facts["svm_off"]:
        yield HostFinding(
            False, "SVM", facts["svm_off"], "switch SVM (also: SVM Mode, AMD-V) on in the firmware's setup"
        )
    elif "svm" not in flags:
        yield HostFinding(False, "SVM", "not in /proc/cpuinfo", "no AMD CPU, or SVM is off in the firmware's setup")
    else:
        bits = [LINUX[flag] for flag in LINUX if flag in flags]
        yield HostFinding(True, "SVM", f"there; {' '.join(bits) or 'Linux names no bit'}")
    if facts["firmware"]:
        how = "UEFI" if facts["efi"] else "BIOS"
        yield HostFinding(None, "firmware", f"{how}; {' '.join(facts['firmware'].split())}")
    if facts["secure_boot"] == "1":
        yield HostFinding(
            False, "Secure Boot", "is on: nothing of ours boots", "switch Secure Boot off in the firmware's setup"
        )
    consoles = [word for word in facts["cmdline"].split() if word.startswith("console=ttyS")]
    if not consoles:
        yield HostFinding(
            None, "Linux console", "not on a serial line: that its own OS is back, SSH alone shows",
            f"add console=ttyS0,{spec.baud} to its kernel's command line",
        )  # fmt: skip
    elif not any(f",{spec.baud}" in word for word in consoles):
        yield HostFinding(None, "Linux console", f"{' '.join(consoles)}; the lab file says {spec.baud} baud")
    if spec.boot["driver"] == "kexec":
        yield from _kexec(facts)
    if spec.boot["driver"] == "grub":
        there = "reboot" in facts["grub"]
        yield HostFinding(there, "boot", "grub-reboot is there" if there else "no grub-reboot: its loader is not GRUB")
        if there and "saved" not in facts["grub"]:
            yield HostFinding(
                False, "boot", f"{facts['grub'].splitlines()[-1]}: a one-shot entry needs the saved one",
                "GRUB_DEFAULT=saved in /etc/default/grub, then update-grub",
            )  # fmt: skip
    if facts["iommu"]:
        yield HostFinding(
            None, "IOMMU", f"{' '.join(facts['iommu'].split())} on; after kexec it stays so, with Linux's tables"
        )
    if facts["encrypt"]:
        yield HostFinding(None, "memory", f"{facts['encrypt'].partition('] ')[2] or facts['encrypt']}")


def _kexec(facts: Mapping[str, str]) -> Iterator[HostFinding]:
    if not facts["has_kexec"]:
        yield HostFinding(False, "boot", "this kernel has no kexec (CONFIG_KEXEC)", "boot another kernel, or use grub")
    elif facts["kexec_off"] == "1":
        yield HostFinding(
            False, "boot", "kexec is switched off until the next boot", "sysctl kernel.kexec_load_disabled=0"
        )
    elif "[none]" not in facts["lockdown"] and facts["lockdown"]:
        yield HostFinding(
            False, "boot", f"kernel lockdown: {facts['lockdown']}", "switch Secure Boot off, or lockdown=none"
        )
    elif not facts["kexec"]:
        yield HostFinding(False, "boot", "kexec(8) is not there", "apt-get install kexec-tools")
    else:
        yield HostFinding(True, "boot", facts["kexec"].splitlines()[-1])


def _cpu(cpu: Mapping[str, str]) -> str:
    try:
        family, model = int(cpu["cpu family"]), int(cpu["model"])
        signature = f"family {family:02X}h model {model:02X}h stepping {int(cpu['stepping']):X}h"
    except (KeyError, ValueError):
        signature = "its signature is not told"
    microcode = f", microcode {cpu['microcode'].strip()}" if "microcode" in cpu else ""
    return f"{cpu.get('model name', '?').strip()}, {signature}{microcode}"
