"""Xen as L0. A guest is a PVH domain, or an HVM domain with QEMU as its device model; its console is the PV console.

The console's pseudo-terminal is opened by our own program: xenconsole would end at the first Ctrl-] that arrives alone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from harness.hosts import processes, program
from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.l0 import GUEST_PREFIX, GuestPlan
from harness.hosts.spec import HostSpec
from harness.hosts.xen_config import DEVICE_MODEL, MODEL_PACKAGE, end_of, guest_config, needs_model
from harness.machine import feature_mask
from harness.machine.base import TargetError, TargetOptions

GRACE_MS = 500
CREATE_TICKS = 300  # of 0.05 s: how long until the console is there
ROOM_MIB = 32  # what a domain takes besides its memory
MODEL_LOG = "/var/log/xen/qemu-dm-NAME.log"  # of an HVM domain's QEMU; xl keeps it, and ten older ones

# xl stays in the foreground and says how the domain ended; without that it would leave a process behind.
INNER = """
xl create -F CONFIG </dev/null >LOG 2>&1 &
x=$! t= i=0
while [ $i -lt TICKS ] && kill -0 $x 2>/dev/null; do
d=$(xl domid NAME 2>/dev/null) && t=$(xenstore-read /local/domain/$d/console/tty 2>/dev/null) && [ -n "$t" ] && break
t= i=$((i+1)); sleep 0.05 2>/dev/null || sleep 1
done
if [ -n "$t" ]; then ./nsvm-host tty "$t"
else kill -0 $x 2>/dev/null && echo "error: no console came" >>LOG; kill $x 2>/dev/null; fi
wait $x
grep -q 'device model did not start' LOG && cat MODEL_LOG >>LOG
cat LOG >&2
"""

FACTS = r"""
echo "vendor=$(sed -n 's/^vendor_id[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
echo "control=$(cat /proc/xen/capabilities 2>/dev/null)"
echo "xl=$(command -v xl)"
echo "xenstore=$(command -v xenstore-read)"
[ "$(id -u)" = 0 ] && echo root=1
xl info 2>/dev/null | sed -n 's/^\(virt_caps\|free_memory\|xen_version\)[[:space:]]*: */\1=/p'
"""
HVM_FACTS = f"""
{{ {DEVICE_MODEL}
}} | sed '1s/^/model=/; 2s/^/model_there=/'
"""


class Xen:
    """See L0."""

    kind = "xen"

    def __init__(self, spec: HostSpec, options: TargetOptions) -> None:
        self._spec = spec
        self._options = options
        self._hvm = spec.vmm == "hvm"

    def files(self) -> Mapping[str, bytes | Path]:
        """See L0."""
        boots = (
            {program.DISK: self._options.disk_image} if self._hvm else {program.EXECUTOR: self._options.executor_elf}
        )
        return {program.NAME: program.program(), **boots}

    def version(self, host: Connection) -> tuple[str, tuple[int, ...]]:
        """See L0."""
        ran = host.run("xl info")
        found = re.search(r"^xen_version\s*: (\S+)", ran.text, re.M)
        if not found:
            raise HostError(f"host {host.name}: xl info says nothing: {ran.complaint}", ran.text)
        number = re.match(r"\d+(\.\d+)*", found[1])
        return f"Xen {found[1]}", tuple(map(int, number[0].split("."))) if number else ()

    def start_command(self, guest: GuestPlan) -> str:
        """See L0."""
        name = program.check_name(guest.name)
        if guest.cpu is not None:
            raise TargetError(f"host {self._spec.name}: Xen has no CPU models ({guest.cpu})")
        try:
            config = guest_config(
                guest, hvm=self._hvm, executor=program.EXECUTOR, disk=program.DISK, lines=self._spec.vmm_args
            )
        except feature_mask.MaskError as error:
            raise TargetError(f"host {self._spec.name}: {error}") from None
        model_log = MODEL_LOG.replace("NAME", name)
        parts = {"CONFIG": f"{name}.cfg", "MODEL_LOG": model_log, "LOG": f"{name}.log"}
        parts |= {"NAME": name, "TICKS": str(CREATE_TICKS)}
        inner = re.sub("|".join(parts), lambda found: parts[found[0]], INNER)
        # The mark is for stop_script(), which reads to the first newline; what is done on_end must not have it.
        inner = f": {processes.mark(name)}{inner}"
        on_end = f"xl destroy {name} >/dev/null 2>&1; rm -f {name}.cfg {name}.log {model_log}*"
        argv = program.leash(["sh", "-c", inner], on_end=on_end, grace_ms=GRACE_MS)
        write = f"cd {shlex.quote(guest.workdir)} && printf %s {shlex.quote(config)} > {name}.cfg"
        return f"{write} && exec {program.words(argv)}"

    def stop_script(self, name: str) -> str:
        """See L0."""
        program.check_name(name)
        model_log = MODEL_LOG.replace("NAME", name)
        # A domain that is gone has no id; one that is going may keep its name for a while. The leash, which ends then
        # by itself, is waited for: at its end it would destroy the next domain of that name.
        return (
            f"i=0; while xl domid {name} >/dev/null 2>&1; do [ $i -lt 50 ] || exit 1; "
            f"xl destroy {name} >/dev/null 2>&1; i=$((i+1)); sleep 0.1 2>/dev/null || sleep 1; done; "
            f"( {processes.stop_script(name, patient=True)} ) || exit 1; rm -f {model_log}*"
        )

    def leftovers_script(self) -> str:
        """See L0."""
        return f"xl list | while read -r n r; do case $n in {GUEST_PREFIX}*) printf '%s\\n' \"$n\";; esac; done"

    def exit_reason(self, log: str, status: int | None) -> str | None:
        """See L0."""
        return end_of(log)

    def missing(self, host: Connection) -> list[str]:
        """See L0."""
        ran = host.run(FACTS + HVM_FACTS if needs_model(self._spec) else FACTS)
        return missing(dict(line.split("=", 1) for line in ran.text.splitlines() if "=" in line), self._spec)


def missing(facts: Mapping[str, str], spec: HostSpec) -> list[str]:
    """One line for each thing that is not as it must be, and how to mend it."""
    if facts.get("vendor") not in ("AuthenticAMD", "HygonGenuine"):
        return [f"the CPU is not AMD ({facts.get('vendor') or 'unknown'}): nested SVM needs an AMD host"]
    if "control_d" not in facts.get("control", ""):
        return ["this is not Xen's control domain: apt install xen-system-amd64, and boot the entry with Xen"]
    lines = []
    for tool, package in (("xl", "xen-utils-common"), ("xenstore", "xenstore-utils")):
        if not facts.get(tool):
            lines.append(f"there is no {'xl' if tool == 'xl' else 'xenstore-read'}: apt install {package}")
    if "root" not in facts:
        lines.append('xl works for root only: connect as root (user = "root" in the lab file)')
    if lines:
        return lines
    if "xen_version" not in facts:
        return ["xl info says nothing: systemctl restart xenstored xenconsoled xen-init-dom0 (or: service xen restart)"]
    capabilities = facts.get("virt_caps", "").split()
    if "hvm" not in capabilities:
        lines.append("Xen cannot run HVM or PVH guests: switch SVM (AMD-V) on in the firmware's setup")
    elif "hap" not in capabilities:
        lines.append("Xen runs without nested paging (HAP): remove hap=0 from Xen's command line, and boot again")
    if facts.get("model") and "model_there" not in facts:
        lines.append(f"there is no {facts['model']}, the device model of HVM guests: apt install {MODEL_PACKAGE}")
    free, needed = facts.get("free_memory", ""), spec.memory_mib + ROOM_MIB
    if free.isdigit() and int(free) < needed:
        lines.append(
            f"Xen has {free} MiB free, a guest takes {needed}: xl mem-set 0 LESS, or dom0_mem=... on Xen's command line"
        )
    return lines
