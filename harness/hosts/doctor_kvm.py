"""What a KVM host lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.hosts.cpu_bits import of_cpuinfo
from harness.hosts.finding import HostFinding
from harness.hosts.kvm import QEMU
from harness.hosts.spec import HostSpec

RELOAD = "with no guest running: modprobe -r kvm_amd && modprobe kvm_amd nested=1 npt=1"
FOR_GOOD = "for good: echo 'options kvm_amd nested=1' > /etc/modprobe.d/nsvm.conf"
ON = ("1", "Y", "y")
PARAMETERS = {
    "nrips": "NRIPS",
    "lbrv": "LbrVirt",
    "vls": "VmsaveVirt",
    "vgif": "VGIF",
    "vnmi": "VNMI",
    "tsc_scaling": "TscRateMsr",
}
"""Features that a parameter of kvm_amd turns off."""

Facts = Mapping[str, str]


def kvm_findings(facts: Facts, spec: HostSpec) -> Iterator[HostFinding]:
    """From the CPU up to the VMM."""
    yield from cpu_findings(facts)
    yield from _module(facts)
    yield _device(facts)
    yield _memory(facts, spec)
    yield _qemu(facts, spec)
    yield _tracing(facts, spec)


def cpu_findings(facts: Facts) -> Iterator[HostFinding]:
    """The CPU is AMD's or Hygon's and has SVM, and firmware has left it on."""
    told = {key.strip(): value.strip() for key, _, value in (ln.partition(":") for ln in facts["cpu"].splitlines())}
    vendor, model = told.get("vendor_id", "unknown"), " ".join(told.get("model name", "").split())
    if vendor not in ("AuthenticAMD", "HygonGenuine"):
        yield HostFinding(False, "CPU", f"{vendor} {model}: not AMD, nested SVM cannot be tested there")
        return
    yield HostFinding(True, "CPU", f"{vendor} {model}, {facts['cpus']} CPUs")
    if "svm" in told.get("flags", "").split() and not facts.get("firmware"):
        bits = " ".join(of_cpuinfo(facts["cpu"])) or "none that Linux names"
        yield HostFinding(True, "SVM", f"bits of Fn8000_000A EDX: {bits}")
    elif facts.get("firmware"):
        yield HostFinding(
            False,
            "SVM",
            f"locked off by firmware (VM_CR.SVMDIS): {facts['firmware'].splitlines()[-1][-120:]}",
            "switch on SVM (also called AMD-V, virtualization) in the firmware's setup",
        )
    else:
        yield HostFinding(
            False,
            "SVM",
            "the CPU shows none",
            "switch on SVM (also called AMD-V) in the firmware's setup; of a virtual machine: give it nested SVM",
        )


def _module(facts: Facts) -> Iterator[HostFinding]:
    if not any(line == "/sys/module/kvm_amd" for line in facts["module"].splitlines()):
        built = "" if facts["module"] else ", and the kernel seems to have none"
        yield HostFinding(False, "kvm_amd", f"not loaded{built}", f"modprobe kvm_amd nested=1; {FOR_GOOD}")
        return
    parameters = dict(line.partition("=")[::2] for line in facts["kvm_amd"].splitlines())
    yield HostFinding(True, "kvm_amd", "loaded")
    nested, npt, avic = (parameters.get(name, "") for name in ("nested", "npt", "avic"))
    if nested in ON:
        yield HostFinding(True, "nested", f"nested={nested}: guests are offered SVM")
    else:
        told = f"nested={nested or '?'}: guests are not offered SVM"
        yield HostFinding(False, "nested", told, f"{RELOAD}; {FOR_GOOD}")
    if npt in ON:
        yield HostFinding(True, "npt", f"npt={npt}")
    else:
        told = f"npt={npt or '?'}: L1 is not offered NP, and its tests are skipped"
        yield HostFinding(None, "npt", told, f"{RELOAD} (if the CPU has NP)")
    if avic:
        yield HostFinding(None, "avic", f"avic={avic}")
    off = [name for name, bit in PARAMETERS.items() if parameters.get(name) in ("0", "N") and _has(facts, bit)]
    if off:
        told = f"{' '.join(f'{name}={parameters[name]}' for name in off)}: L0 does without what the CPU has"
        yield HostFinding(None, "parameters", told, f"{RELOAD} {' '.join(f'{name}=1' for name in off)}")


def _has(facts: Facts, bit: str) -> bool:
    return bit in of_cpuinfo(facts["cpu"])


def _device(facts: Facts) -> HostFinding:
    lines = facts["device"].splitlines()
    user = facts["user"].split()[1] if len(facts["user"].split()) > 1 else "USER"
    if "opens" in lines:
        return HostFinding(True, "/dev/kvm", "this user may open it")
    if not lines:
        return HostFinding(False, "/dev/kvm", "it is not there", "modprobe kvm_amd nested=1")
    group = lines[-1] if len(lines) > 1 else "kvm"
    told = f"{user} may not open it"
    return HostFinding(False, "/dev/kvm", told, f"usermod -aG {group} {user}, then log in again; or log in as root")


def _memory(facts: Facts, spec: HostSpec) -> HostFinding:
    known = dict(line.partition(":")[::2] for line in facts["memory"].splitlines())
    words = known.get("MemAvailable", known.get("MemFree", "")).split()
    if not words or not words[0].isdecimal():
        return HostFinding(None, "memory", "not known")
    free, wanted = int(words[0]) // 1024, spec.workers * (spec.memory_mib + 32)
    told = f"{free} MiB free, {wanted} wanted for {spec.workers} guest{'s' * (spec.workers > 1)}"
    mend = "" if free >= wanted else "end other guests, or set workers or memory_mib of this host lower"
    return HostFinding(free >= wanted, "memory", told, mend)


def _qemu(facts: Facts, spec: HostSpec) -> HostFinding:
    lines = facts["qemu"].splitlines()
    needed = spec.vmm == "qemu"
    named = spec.vmm_path or QEMU
    if needed and len(lines) >= 2 and lines[0] != named and not lines[0].endswith(f"/{named}"):
        return HostFinding(False, "QEMU", f"there is no {named}, but {lines[0]}", f'set vmm_path = "{lines[0]}"')
    if len(lines) >= 2:
        told = f"{lines[1][:100]}, {lines[0]}"
        return HostFinding(True, "QEMU", told) if needed else HostFinding(None, "QEMU", f"{told} (not needed)")
    if not needed:
        return HostFinding(None, "QEMU", 'not there, and not needed: vmm = "small" brings its own')
    return HostFinding(False, "QEMU", f"there is no {named}", 'apt-get install qemu-system-x86, or set vmm = "small"')


def _tracing(facts: Facts, spec: HostSpec) -> HostFinding:
    lines = facts["tracing"].splitlines()
    if not spec.tracepoints:
        return HostFinding(None, "tracing", "switched off for this host (tracepoints)")
    if "kvm" in lines:
        return HostFinding(True, "tracing", f"{lines[0]}: KVM's tracepoints are recorded with a failure")
    if "writable" in lines:
        return HostFinding(None, "tracing", "the kernel has no tracepoints of KVM")
    why = "this user may not use it" if lines else "it is not mounted"
    mend = "log in as root" if lines else "mount -t tracefs tracefs /sys/kernel/tracing"
    return HostFinding(None, "tracing", f"{why}: failures come without a trace of KVM", mend)
