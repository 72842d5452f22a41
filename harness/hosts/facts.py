"""What a host says of itself, asked in one round trip. Nothing is changed there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

from harness.hosts.kvm import QEMU
from harness.hosts.sections import Sections
from harness.hosts.spec import HostSpec
from harness.hosts.watch import Host
from harness.hosts.xen_config import DEVICE_MODEL, needs_model
from harness.text import printable

DEADLINE_S: Final = 30.0
ANSWER_MAX: Final = 64 * 1024

_COMMANDS: Final = {
    "user": "echo $(id -u) $(id -un); id -Gn",
    "kernel": "uname -r; head -c 400 /proc/version",
    "cpu": "sed '/^$/q' /proc/cpuinfo",
    "cpus": "grep -c ^processor /proc/cpuinfo",
    "memory": "head -n 5 /proc/meminfo",
    "mounts": "head -c 60000 /proc/mounts",
    "log": "if ( : </dev/kmsg ) 2>/dev/null; then echo kmsg; "
    "elif [ -n \"$(journalctl -q -k -n 1 -o cat)\" ]; then echo journal; fi",
    "tainted": "cat /proc/sys/kernel/tainted",
    "xen": "cat /sys/hypervisor/type; cat /proc/xen/capabilities",
}  # fmt: skip
_KVM: Final = {
    "kvm_amd": "for f in /sys/module/kvm_amd/parameters/*; do echo ${f##*/}=$(cat $f); done",
    "module": "ls -d /sys/module/kvm_amd; modinfo -n kvm_amd",
    "device": 'ls -ln /dev/kvm; ( : <>/dev/kvm ) && echo opens; stat -c %G /dev/kvm',
    "firmware": "dmesg | grep -i -e 'disabled by bios' -e 'disabled (by bios)' -e 'SVM not supported' | tail -n 3",
    "tracing": 'for t in /sys/kernel/tracing /sys/kernel/debug/tracing; do [ -d $t/instances ] && echo $t && '
    '[ -w $t/instances ] && echo writable && [ -d $t/events/kvm ] && echo kvm && break; done',
}  # fmt: skip
_XEN: Final = {
    "xl": "command -v xl; xl info 2>&1 | head -c 8000",
    "features": "xl dmesg | grep -A 24 'SVM: Supported advanced features' | head -n 25",
    "commandline": "xl info xen_commandline; xl dmesg | grep -m 1 'Command line:'",
}


def commands(spec: HostSpec) -> dict[str, str]:
    """What is asked of a host of that kind."""
    where = shlex.quote(spec.workdir)
    asked = dict(_COMMANDS)
    asked |= _XEN if spec.l0 == "xen" else _KVM
    if needs_model(spec):
        asked["model"] = DEVICE_MODEL
    asked["qemu"] = (
        f"for q in {shlex.quote(spec.vmm_path or QEMU)} /usr/libexec/qemu-kvm /usr/bin/kvm; do "
        'command -v "$q" && "$q" --version | head -n 1 && break; done'
    )
    asked["workdir"] = (
        f"w={where}; while [ ! -e $w ]; do w=${{w%/*}}; w=${{w:-/}}; done; echo $w; "
        "[ -d $w ] && [ -w $w ] && [ -x $w ] && echo writable; df -Pk $w | tail -n 1"
    )
    asked["lease"] = (
        f"[ -e {where}/lease ] && {{ head -c 1000 {where}/lease; echo now; cut -d . -f 1 /proc/uptime; "
        f"cat /proc/sys/kernel/random/boot_id; for f in {where}/beat.*; do head -c 20 $f; done; }}"
    )
    return asked


def ask(host: Host, spec: HostSpec) -> Mapping[str, str]:
    """The answers by name, printable; "" where there is none. Raises what the connection raises."""
    asked = commands(spec)
    sections = Sections(asked)
    answers = sections.split(host.run(sections.script(), deadline_s=DEADLINE_S).out)
    return {name: printable(answers.get(name, b"").replace(b"\t", b" "), ANSWER_MAX).strip() for name in asked}
