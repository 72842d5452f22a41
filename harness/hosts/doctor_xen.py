"""What a Xen host lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from harness.hosts.cpu_bits import of_xen_log
from harness.hosts.finding import HostFinding
from harness.hosts.spec import HostSpec
from harness.hosts.xen_config import MODEL_PACKAGE, needs_model

REQUIRED_SINCE = (4, 19)
REQUIRED = ("LbrVirt", "NRIPS", "FlushByAsid", "DecodeAssists")
"""What newer versions want of the CPU before they give a guest nested SVM."""

Facts = Mapping[str, str]


def xen_findings(facts: Facts, spec: HostSpec) -> Iterator[HostFinding]:
    """From the CPU up to xl."""
    cpu = re.search(r"^vendor_id\s*: (\S+)", facts["cpu"], re.MULTILINE)
    model = re.search(r"^model name\s*: (.*)", facts["cpu"], re.MULTILINE)
    vendor = cpu[1] if cpu else "unknown"
    named = f"{vendor} {model[1].strip() if model else ''}"
    if vendor not in ("AuthenticAMD", "HygonGenuine"):
        yield HostFinding(False, "CPU", f"{named}: not AMD, nested SVM cannot be tested there")
    else:
        yield HostFinding(True, "CPU", named)
    path, *rest = facts["xl"].splitlines() or [""]
    info = dict((key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in rest))
    if "xen" not in facts["xen"].splitlines() and "xen_major" not in info:
        yield HostFinding(False, "Xen", "the host does not run below Xen", "boot the Xen entry of its boot menu")
        return
    if "control_d" not in facts["xen"]:
        yield HostFinding(False, "dom0", "this is a guest of Xen, not dom0", "give the address of dom0")
    if not path.startswith("/"):
        yield HostFinding(False, "xl", "there is no xl", "apt-get install xen-utils, and log in as root (sbin in PATH)")
        return
    if "xen_major" not in info:
        said = next((line for line in rest if line.strip()), "it says nothing")
        yield HostFinding(False, "xl", f"`xl info` fails: {said[:160]}", "log in as root; see that xenstored runs")
        return
    yield HostFinding(True, "xl", path)
    if needs_model(spec):
        yield _device_model(facts["model"].splitlines())
    yield from _hypervisor(facts, info, spec)


def _hypervisor(facts: Facts, info: Mapping[str, str], spec: HostSpec) -> Iterator[HostFinding]:
    extra = info.get("xen_extra", "")
    yield HostFinding(True, "Xen", f"{info['xen_major']}.{info.get('xen_minor', '?')}{extra}")
    caps = info.get("virt_caps", info.get("xen_caps", "")).split()
    if not any(cap.startswith("hvm") for cap in caps):
        told = f"Xen cannot run HVM guests ({' '.join(caps)})"
        yield HostFinding(False, "HVM", told, "switch on SVM in the firmware's setup")
    elif "hap" not in caps:
        off = "Xen's command line has hap=0: remove it" if "hap=0" in facts["commandline"] else "the CPU has no NP"
        yield HostFinding(False, "HAP", "off: nested guests need it", off)
    else:
        yield HostFinding(True, "HAP", "on")
    bits = of_xen_log(facts["features"])
    told = " ".join(bits) if bits else "not known: Xen's log no longer holds its boot"
    yield HostFinding(None if not bits else True, "SVM", f"bits of Fn8000_000A EDX: {told}")
    yield _nested(info, bits)
    free, wanted = info.get("free_memory", ""), spec.workers * (spec.memory_mib + 16)
    if not free.isdecimal():
        yield HostFinding(None, "memory", "not known")
        return
    told = f"{free} MiB of Xen's are free, {wanted} wanted for {spec.workers} guest{'s' * (spec.workers > 1)}"
    enough = int(free) >= wanted
    yield HostFinding(enough, "memory", told, "" if enough else "xl mem-set Domain-0 LESS, or dom0_mem= for good")


def _device_model(lines: list[str]) -> HostFinding:
    if not lines:
        return HostFinding(None, "QEMU", "not known: xl's library does not say which it takes for HVM guests")
    if "there" in lines[1:]:
        return HostFinding(True, "QEMU", lines[0])
    return HostFinding(False, "QEMU", f"there is no {lines[0]}, for HVM guests", f"apt-get install {MODEL_PACKAGE}")


def _nested(info: Mapping[str, str], bits: list[str]) -> HostFinding:
    numbers = [re.match(r"\d+", info.get(key, "")) for key in ("xen_major", "xen_minor")]
    version = tuple(int(number[0]) for number in numbers if number)
    lacking = [bit for bit in REQUIRED if bit not in bits]
    if version >= REQUIRED_SINCE and bits and lacking:
        told = f"Xen {'.'.join(map(str, version))} gives no guest nested SVM: it wants {' '.join(lacking)} of the CPU"
        return HostFinding(False, "nestedhvm", told, "a CPU that has them, or an older Xen")
    return HostFinding(None, "nestedhvm", "asked for with each guest; a first boot shows whether Xen grants it")
