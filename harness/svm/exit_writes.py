"""Which bits of a VMCB #VMEXIT may write, given what the VMCB had switched on and what the CPU offers (APM2 15.6).

The answer has three values, because the APM is silent about some bits (the reserved ones next to those it writes):
only `NEVER` is a promise that a test may hold a target to.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from harness.svm.cpuid import Cpuid
from harness.svm.fields import FIELD_BY_NAME, FIELDS, VMCB_SIZE, WHOLE_FIELDS, Clean, Field
from harness.svm.vmcb import FieldChange, Vmcb, diff, field


class Write(Enum):
    """What #VMEXIT may do to a field."""

    WRITES = "writes"
    UNSAID = "unsaid"
    NEVER = "never"


_Switch = Callable[[Vmcb, Cpuid], bool]


def _nested_paging(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("NP") and before["np_enable"] == 1


def _lbr(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("LbrVirt") and before["lbr_virt_enable"] == 1


def _lbr_stack(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("LbrExtV2") and _lbr(before, cpuid)


def _vgif(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("VGIF") and before["v_gif_enable"] == 1


def _vnmi(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("VNMI") and before["v_nmi_enable"] == 1


def _ibs(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("IbsVirt") and before["ibs_virt_enable"] == 1


def _pmc(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("PmcVirt") and before["pmc_virt_enable"] == 1


def _sev(before: Vmcb, cpuid: Cpuid) -> bool:
    return cpuid.has("SEV-ES") and before["sev_es_enable"] == 1


def _offered(name: str) -> _Switch:
    return lambda before, cpuid: cpuid.has(name)


_DECODE_ASSISTS = _offered("DecodeAssists")
_SHADOW_STACK = _offered("CET_SS")

_SWITCHES: dict[str, _Switch] = {
    "nrip": _offered("NRIPS"),
    "insn_len": _DECODE_ASSISTS,
    "insn_bytes": _DECODE_ASSISTS,
    "bus_lock_count": lambda before, cpuid: cpuid.has("BusLockThreshold") and before.intercepts("buslock"),
    "v_gif": _vgif,
    "v_nmi": _vnmi,
    "v_nmi_mask": _vnmi,
    "g_pat": _nested_paging,
    "s_cet": _SHADOW_STACK,
    "ssp": _SHADOW_STACK,
    "isst_addr": _SHADOW_STACK,
    "spec_ctrl": _offered("SpecCtrl"),
    "vmgexit_rax": _sev,
    "vmgexit_cpl": _sev,
    "guest_sev_features": _sev,
}
for _name in ("dbgctl", "br_from", "br_to", "last_excp_from", "last_excp_to"):
    _SWITCHES[_name] = _lbr
for _name in ("dbgextnctl", "lbr_stack", "lbr_select"):
    _SWITCHES[_name] = _lbr_stack
for _item in WHOLE_FIELDS:
    if _item.name.startswith(("ibs_", "bp_ibs", "ic_ibs")):
        _SWITCHES[_item.name] = _ibs
    elif _item.name.startswith(("perf_ct", "instr_retired_ctr")):
        _SWITCHES[_item.name] = _pmc

# Reserved parts of what is written anyway: the APM does not say whether they come back as they were.
# Selector and attributes of GDTR and IDTR are reserved words of descriptors that #VMEXIT writes (Table B-2).
_UNSAID = frozenset({"gdtr.selector", "gdtr.attrib", "idtr.selector", "idtr.attrib"})
# Whole fields of which #VMEXIT writes single bits: those not named by a sub-field are reserved there.
_BY_PARTS = frozenset({"vintr", "int_state"})


def exit_write(name: str, before: Vmcb, cpuid: Cpuid) -> Write:
    """What #VMEXIT may do to the field `name` of a VMCB that was `before` at VMRUN. KeyError for an unknown field.

    A whole field that is written in parts answers WRITES if any part is; ask `exit_write_masks` about its bits.
    """
    item = field(name)
    if name in _UNSAID:
        return Write.UNSAID
    if not item.written_by_exit:
        return Write.NEVER
    switch = _SWITCHES.get(name)
    return Write.WRITES if switch is None or switch(before, cpuid) else Write.NEVER


def may_write(where: str | int, before: Vmcb, cpuid: Cpuid) -> bool:
    """Whether a change by #VMEXIT is not a deviation: at a field (by name) or in a byte (by offset 0..FFFh).

    UNSAID counts as may. A byte of which only some bits may change answers True; `exit_write_masks` tells which.
    """
    if isinstance(where, str):
        return exit_write(where, before, cpuid) is not Write.NEVER
    if not 0 <= where < VMCB_SIZE:
        raise ValueError(f"a VMCB has no byte {where:#x}")
    return exit_write_masks(before, cpuid)[where] != 0


def exit_write_masks(before: Vmcb, cpuid: Cpuid) -> bytes:
    """4096 bytes; a set bit may be changed by #VMEXIT (written, or the APM is silent). All others must be as before."""
    return _mask(before, cpuid).to_bytes(VMCB_SIZE, "little")


def _mask(before: Vmcb, cpuid: Cpuid) -> int:
    mask = _FIXED_MASK
    for switch, switched in _SWITCHED:
        if switch(before, cpuid):
            mask |= switched
    if before["clean"] >> Clean.TPR & 1 and cpuid.has("VmcbClean"):
        mask |= _VINTR_MASK  # V_TPR and V_IRQ go back with their neighbours as the CPU has them
    return mask


def _page_mask(item: Field) -> int:
    return item.mask << 8 * item.offset


def _parts_mask(item: Field) -> int:
    """The bits of a field that no sub-field names: reserved, so unsaid."""
    named = 0
    for part in FIELDS:
        if part.parent == item.name:
            named |= part.mask
    return (item.mask & ~named) << 8 * item.offset


def _fixed_mask() -> int:
    """What #VMEXIT may change whatever is switched on: computed once."""
    mask = 0
    for item in FIELDS:
        if item.name in _BY_PARTS:
            mask |= _parts_mask(item)
        elif item.name in _UNSAID or (item.written_by_exit and item.name not in _SWITCHES):
            mask |= _page_mask(item)
    return mask


def _switched_masks() -> tuple[tuple[_Switch, int], ...]:
    """What each switch lets #VMEXIT change."""
    masks: dict[_Switch, int] = {}
    for name, switch in _SWITCHES.items():
        masks[switch] = masks.get(switch, 0) | _page_mask(field(name))
    return tuple(masks.items())


_FIXED_MASK = _fixed_mask()
_VINTR_MASK = _page_mask(field("vintr"))
_SWITCHED = _switched_masks()


def forbidden_changes(before: Vmcb, after: Vmcb, cpuid: Cpuid) -> list[FieldChange]:
    """Differences that #VMEXIT may not have made, by whole field. An entry gives the whole values before and after."""
    mask = _mask(before, cpuid)
    was, now = (int.from_bytes(page.data, "little") for page in (before, after))
    forbidden = (was ^ now) & ~mask
    if not forbidden:  # nearly always, and this runs after every VMRUN
        return []
    allowed = Vmcb((now ^ forbidden).to_bytes(VMCB_SIZE, "little"))
    return [
        change if change.field is None else FieldChange(
            change.name, change.offset, change.width_bytes, before[change.name], after[change.name], change.field
        )
        for change in diff(allowed, after)
    ]  # fmt: skip


def written_by_vmexit(before: Vmcb, cpuid: Cpuid) -> tuple[str, ...]:
    """Names of the whole fields and sub-fields that #VMEXIT writes for this VMCB on this CPU."""
    return tuple(item.name for item in FIELDS if exit_write(item.name, before, cpuid) is Write.WRITES)


SAVED_STATE: tuple[str, ...] = (
    *(f"{name}.{part}" for name in ("es", "cs", "ss", "ds") for part in ("selector", "attrib", "limit", "base")),
    *(f"{name}.{part}" for name in ("gdtr", "idtr") for part in ("limit", "base")),
    "cpl", "efer", "cr0", "cr2", "cr3", "cr4", "dr6", "dr7", "rflags", "rip", "rsp", "rax",
)  # fmt: skip
"""The guest state that every #VMEXIT stores (APM2 15.6)."""

assert all(name in FIELD_BY_NAME for name in (*_SWITCHES, *_UNSAID, *_BY_PARTS, *SAVED_STATE))
