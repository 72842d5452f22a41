"""The bits of CPUID Fn8000_000A EDX as Linux and Xen name them, by the APM's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from harness.svm.features import SVM_BITS

LINUX: Final = {
    "npt": "NP",
    "lbrv": "LbrVirt",
    "svm_lock": "SVML",
    "nrip_save": "NRIPS",
    "tsc_scale": "TscRateMsr",
    "vmcb_clean": "VmcbClean",
    "flushbyasid": "FlushByAsid",
    "decodeassists": "DecodeAssists",
    "pausefilter": "PauseFilter",
    "pfthreshold": "PauseFilterThreshold",
    "avic": "AVIC",
    "v_vmsave_vmload": "VmsaveVirt",
    "vgif": "VGIF",
    "x2avic": "x2AVIC",
    "v_spec_ctrl": "SpecCtrl",
    "vnmi": "VNMI",
    "svme_addr_chk": "SVME_ADDR_CHK",
    "bus_lock_threshold": "BusLockThreshold",
    "idle_hlt": "IdleHltIntercept",
}
"""Flags of /proc/cpuinfo."""

XEN: Final = {
    "Nested Page Tables (NPT)": "NP",
    "Last Branch Record (LBR) Virtualisation": "LbrVirt",
    "Next-RIP Saved on #VMEXIT": "NRIPS",
    "VMCB Clean Bits": "VmcbClean",
    "DecodeAssists": "DecodeAssists",
    "Virtual VMLOAD/VMSAVE": "VmsaveVirt",
    "Virtual GIF": "VGIF",
    "Pause-Intercept Filter": "PauseFilter",
    "Pause-Intercept Filter Threshold": "PauseFilterThreshold",
    "TSC Rate MSR": "TscRateMsr",
    "TLB flush by ASID": "FlushByAsid",
    "NPT Supervisor Shadow Stack": "SSSCheck",
    "MSR_SPEC_CTRL virtualisation": "SpecCtrl",
}
"""What Xen prints when it boots."""

_ORDER: Final = {bit.name: bit.bit for bit in SVM_BITS}


def in_order(names: Iterable[str]) -> list[str]:
    """In the order of the bits."""
    return sorted(set(names), key=lambda name: _ORDER.get(name, 99))


def of_cpuinfo(cpuinfo: str) -> list[str]:
    """The bits that a CPU has, as far as its kernel has names for them."""
    flags = next((line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return in_order(LINUX[flag] for flag in flags if flag in LINUX)


def of_xen_log(text: str) -> list[str]:
    """The bits that Xen found when it booted."""
    told = [line.partition(" - ")[2].strip() for line in text.splitlines() if " - " in line]
    return in_order(XEN[line] for line in told if line in XEN)


def hardware_bits(facts: Mapping[str, str]) -> list[str]:
    """The bits of the CPU, from a host's answers: of Xen's log where there is one, for dom0's kernel sees few."""
    return of_xen_log(facts["features"]) if "features" in facts else of_cpuinfo(facts["cpu"])


def of_edx(edx: int) -> list[str]:
    """The bits of the register by name."""
    return [bit.name for bit in SVM_BITS if edx >> bit.bit & 1]
