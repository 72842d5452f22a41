"""Bits of CPUID Fn8000_000A EDX that a run takes away from L1, to see the machine as one without them.

`TargetOptions.without` has their names in the APM's spelling; how a bit is taken away is each target's own business.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.svm.features import SVM_BITS, SvmBit

QEMU_NAMES = {
    "NP": "npt",
    "LbrVirt": "lbrv",
    "SVML": "svm-lock",
    "NRIPS": "nrip-save",
    "TscRateMsr": "tsc-scale",
    "VmcbClean": "vmcb-clean",
    "FlushByAsid": "flushbyasid",
    "DecodeAssists": "decodeassists",
    "PauseFilter": "pause-filter",
    "PauseFilterThreshold": "pfthreshold",
    "AVIC": "avic",
    "VmsaveVirt": "v-vmsave-vmload",
    "VGIF": "vgif",
    "VNMI": "vnmi",
    "SVME_ADDR_CHK": "svme-addr-chk",
}
"""The names of QEMU's -cpu properties."""


class MaskError(Exception):
    """A bit that does not exist, or that a target cannot take away. One line for people."""


def parse(text: str) -> tuple[str, ...]:
    """The bits named in a list like "NRIPS,VmcbClean", each once, as the APM spells them. Raises MaskError."""
    return tuple(dict.fromkeys(_bit(name.strip()).name for name in text.split(",") if name.strip()))


def edx_mask(names: Iterable[str]) -> int:
    """The bits as a mask of EDX. Raises MaskError."""
    mask = 0
    for name in names:
        mask |= 1 << _bit(name).bit
    return mask


def qemu_cpu(model: str, names: Iterable[str]) -> str:
    """A -cpu argument of QEMU without those bits. Raises MaskError for one that QEMU has no property for."""
    for name in names:
        if name not in QEMU_NAMES:
            raise MaskError(f"QEMU has no CPU property for {name}; it can take away {', '.join(QEMU_NAMES)}")
        model += f",-{QEMU_NAMES[name]}"
    return model


def _bit(name: str) -> SvmBit:
    for bit in SVM_BITS:
        if not bit.reserved and name.lower() in {bit.name.lower(), *(alias.lower() for alias in bit.aliases)}:
            return bit
    known = ", ".join(bit.name for bit in SVM_BITS if not bit.reserved)
    raise MaskError(f"no bit of Fn8000_000A EDX is called {name!r}; there are {known}")
