"""A guest's configuration for xl, and what xl says when it is over."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.hosts.l0 import GuestPlan
from harness.hosts.spec import HostSpec
from harness.machine import feature_mask
from harness.machine.base import TargetError

ENDS = {0: "powered off", 1: "reset (triple fault or reboot)", 3: "crashed", 4: "killed by its watchdog"}
MODEL_PACKAGE = "qemu-system-xen"
DEVICE_MODEL = r"""
for l in /usr/lib*/libxenlight.so.* /usr/lib*/*/libxenlight.so.* /lib/*/libxenlight.so.* \
/usr/local/lib*/libxenlight.so.*; do
[ -f "$l" ] && m=$(tr '\000' '\n' <"$l" | grep -m 1 '^/.*qemu-system-[a-z0-9_]*$') && break; done
[ -n "$m" ] && echo "$m" && [ -x "$m" ] && echo there
""".strip()
"""Prints which QEMU xl takes for an HVM guest, by the path in its library, and whether that is there."""
EVENTS = ("on_poweroff", "on_reboot", "on_crash", "on_watchdog", "on_soft_reset")


def needs_model(spec: HostSpec) -> bool:
    """Whether guests there want the QEMU that DEVICE_MODEL prints."""
    return spec.vmm == "hvm" and not any(line.startswith("device_model_override") for line in spec.vmm_args)


def guest_config(guest: GuestPlan, *, hvm: bool, executor: str, disk: str, lines: Sequence[str]) -> str:
    """The whole file. `lines` come last, so they have the last word. Raises TargetError, MaskError."""
    config = [
        f"name = {_quoted(guest.name)}",
        f'type = "{"hvm" if hvm else "pvh"}"',
        f"memory = {guest.memory_mib}",
        f"vcpus = {guest.cpus}",
        "nestedhvm = 1",
        "hap = 1",
        'tsc_mode = "native"',
        *(f'{event} = "destroy"' for event in EVENTS),
    ]
    if hvm:
        disk = f"{guest.workdir}/{disk}"
        if re.search(r"[,\s]", disk):
            raise TargetError(f"xl has no way to name a disk at {disk!r}")
        # As SCSI: xl refuses an IDE disk that is read-only. QEMU's, as a file needs a loop device else.
        config += [f"disk = [ {_quoted(f'format=raw,vdev=sda,access=ro,backendtype=qdisk,target={disk}')} ]"]
        config += ['boot = "c"', 'vga = "none"', "vnc = 0", "nographic = 1", "usb = 0", "vkb_device = 0"]
        if guest.bundle is not None:
            raise TargetError("a bundle goes with vmm = pvh; an HVM guest boots a disk image")
    else:
        config += [f"kernel = {_quoted(f'{guest.workdir}/{executor}')}"]
        if guest.bundle is not None:
            config += [f"ramdisk = {_quoted(guest.bundle)}"]
    if mask := feature_mask.edx_mask(guest.without):
        config += [f'cpuid = [ "0x8000000a:edx={_policy(mask)}" ]']
    for line in [*lines, *guest.extra_args]:
        if "\n" in line or "=" not in line:
            raise TargetError(f"an argument for Xen is a line of xl.cfg, KEY=VALUE, not {line!r}")
        config.append(line)
    return "\n".join(config) + "\n"


def end_of(log: str) -> str | None:
    """Why a domain ended, or why it could not be made, from what `xl create -F` wrote."""
    if found := re.findall(r"has shut down, reason code (\d+)", log):
        code = int(found[-1])
        return f"Xen: the domain {ENDS.get(code, f'shut down with reason {code}')}"
    if re.search(r"^Domain \d+ has been destroyed", log, re.M):
        return "Xen: the domain was destroyed"
    if said := re.findall(r"^\S*(qemu-system-\S+: (?!terminating on signal).*)", log, re.M):
        return f"Xen: the domain could not be made: {said[-1].strip()[:300]}"
    errors = [line.strip() for line in log.splitlines() if re.search(r"\b(error|failed|invalid|cannot)\b", line, re.I)]
    if errors:
        first = re.sub(r"^libxl: error: [^\s:]+:\d+:(\w+:)? ?", "", errors[0])
        return f"Xen: the domain could not be made: {first[:300]}"
    return None


def _policy(mask: int) -> str:
    """One character a bit, the highest first: cleared, or as it is by default."""
    return "".join("0" if mask >> bit & 1 else "x" for bit in range(31, -1, -1))


def _quoted(text: str) -> str:
    if re.search(r"[\"'\\\x00-\x1f\x7f]", text):
        raise TargetError(f"xl has no way to write {text!r}")
    return f'"{text}"'
