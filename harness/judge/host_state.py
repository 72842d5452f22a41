"""L1's state at a VMRUN and right after its #VMEXIT, by name: whole, and with names that exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.names import nearest
from harness.scenario.steps import HOST_REGISTERS
from harness.svm.msr import MSR

HOST_MSRS = (
    MSR.STAR, MSR.LSTAR, MSR.CSTAR, MSR.SFMASK, MSR.FS_BASE, MSR.GS_BASE, MSR.KERNEL_GS_BASE, MSR.TSC_AUX,
    MSR.SYSENTER_CS, MSR.SYSENTER_ESP, MSR.SYSENTER_EIP, MSR.PAT, MSR.DEBUGCTL, MSR.VM_CR, MSR.VM_HSAVE_PA,
    MSR.MTRR_DEF_TYPE,
)  # fmt: skip
"""The MSRs that the executor reads, but for EFER, which it counts among the registers."""

_NAMES = (
    {name: name for name in HOST_REGISTERS}
    | {msr.name: f"MSR_{msr:08X}" for msr in HOST_MSRS}
    | {f"MSR_{msr:08X}": f"MSR_{msr:08X}" for msr in HOST_MSRS}
    | {f"MSR_{MSR.EFER:08X}": "EFER"}
)


def host_item(name: str | int) -> str:
    """The executor's name of an item: "CR3", "EFER", "GDTR.base", or an MSR by its name ("LSTAR"), its number
    (C000_0082h), or as "MSR_C0000082". Raises KeyError for one that the executor does not read.
    """
    wanted = f"MSR_{name:08X}" if isinstance(name, int) else name
    if wanted not in _NAMES:
        raise KeyError(f"L1's state has no {wanted!r}{nearest(wanted, _NAMES)}")
    return _NAMES[wanted]


class HostState(Mapping[str | int, int]):
    """Right after #VMEXIT. `before` is the same at VMRUN. Keys are as in `host_item`.

    Raises KeyError for a name that the executor does not read, and for an MSR that this machine does not have.
    """

    def __init__(self, at_vmrun: Mapping[str, int], changes: Mapping[str, tuple[int, int]]) -> None:
        self._before = dict(at_vmrun) | {name: before for name, (before, _) in changes.items()}
        self._after = self._before | {name: after for name, (_, after) in changes.items()}

    @property
    def before(self) -> Mapping[str, int]:
        """At VMRUN, by the executor's names."""
        return self._before

    def __getitem__(self, name: str | int) -> int:
        item = host_item(name)
        if item not in self._after:
            raise KeyError(f"this machine has no {item}")
        return self._after[item]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str | int) and _NAMES.get(f"MSR_{name:08X}" if isinstance(name, int) else name) in (
            self._after
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._after)

    def __len__(self) -> int:
        return len(self._after)
