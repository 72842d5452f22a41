"""VMCB images to start from: legal, minimal, and they run.

They intercept VMRUN (mandatory), VMMCALL (how L2 says it is done), SHUTDOWN, INTR and all exceptions, so that nothing
L2 does can leave it without an exit. Output fields hold `OUTPUT_PATTERN`, so that "not written" differs from zero.
"""

from __future__ import annotations

from harness.svm import registers as r
from harness.svm.fields import FIELD_BY_NAME
from harness.svm.vmcb import Vmcb

OUTPUT_PATTERN = 0xA5
"""The byte that output fields are filled with."""

OUTPUT_RANGES: tuple[tuple[int, int], ...] = ((0x70, 0x20), (0xC8, 8), (0xD0, 0x10), (0x670, 0x28))
"""(offset, size) of the output fields: exit code and information, nRIP, instruction bytes, the LBR block."""

DEFAULT_INTERCEPTS = ("vmrun", "vmmcall", "shutdown", "intr")

CS64, CS32, CS16 = 0xA9B, 0xC9B, 0x09B  # G, L or D/B, P, code, readable, accessed
DATA32, DATA16 = 0xC93, 0x093  # G and B, P, data, writable, accessed
LDT, TSS_BUSY = 0x082, 0x08B

CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR = 0x08, 0x10, 0x18


def unwritten(name: str) -> int:
    """The value of an output field in which nothing was written since the template was made."""
    return int.from_bytes(bytes([OUTPUT_PATTERN]) * FIELD_BY_NAME[name].width_bytes, "little")


def fill_outputs(vmcb: Vmcb) -> None:
    """Put the pattern into every output field. With LBR virtualization on, the LBR block is input too: set it after."""
    for offset, size in OUTPUT_RANGES:
        vmcb.data[offset : offset + size] = bytes([OUTPUT_PATTERN]) * size


def _common(iopm_pa: int, msrpm_pa: int, n_cr3: int) -> Vmcb:
    vmcb = Vmcb()
    fill_outputs(vmcb)
    vmcb.intercept(*DEFAULT_INTERCEPTS)
    vmcb.update(
        {
            "intercept_exceptions": 0xFFFF_FFFF,
            "iopm_base_pa": iopm_pa,
            "msrpm_base_pa": msrpm_pa,
            "asid": 1,
            "tlb_control": 1,  # nothing an earlier guest of this ASID left behind may be met (APM2 15.16.1)
            "v_intr_masking": 1,
            "np_enable": int(n_cr3 != 0),
            "n_cr3": n_cr3,
            "g_pat": r.G_PAT_RESET,
            "efer": r.EFER_SVME,
            "cr0": r.CR0_ET | r.CR0_NE,
            "dr6": r.DR6_RESET,
            "dr7": r.DR7_RESET,
            "rflags": r.RFLAGS_FIXED,
            "ldtr.attrib": LDT,
            "tr.selector": TSS_SELECTOR,
            "tr.attrib": TSS_BUSY,
            "tr.limit": 0x67,
        }
    )
    return vmcb


def _segments(vmcb: Vmcb, code: int, data: int, limit: int, base: int, selectors: tuple[int, int]) -> None:
    vmcb.update({"cs.selector": selectors[0], "cs.attrib": code, "cs.limit": limit, "cs.base": base})
    for name in ("ss", "ds", "es", "fs", "gs"):
        vmcb.update(
            {f"{name}.selector": selectors[1], f"{name}.attrib": data, f"{name}.limit": limit, f"{name}.base": base}
        )


def _nested(np: bool, n_cr3: int) -> int:
    if np and not n_cr3:
        raise ValueError("np=True needs n_cr3")
    return n_cr3 if np else 0


def long64_template(
    *, rip: int, rsp: int, cr3: int, iopm_pa: int, msrpm_pa: int, np: bool = False, n_cr3: int = 0, cpl: int = 0
) -> Vmcb:
    """A 64-bit guest with paging. `rip` and `rsp` are guest-linear, `cr3` guest-physical, the others L1-physical."""
    vmcb = _common(iopm_pa, msrpm_pa, _nested(np, n_cr3))
    _flat(vmcb, CS64, cpl)
    vmcb["efer"] |= r.EFER_LME | r.EFER_LMA
    vmcb["cr0"] |= r.CR0_PE | r.CR0_PG
    vmcb["cr4"] = r.CR4_PAE
    vmcb.update({"cr3": cr3, "rip": rip, "rsp": rsp})
    return vmcb


def compat32_template(
    *, rip: int, rsp: int, cr3: int, iopm_pa: int, msrpm_pa: int, np: bool = False, n_cr3: int = 0, cpl: int = 0
) -> Vmcb:
    """A long-mode guest whose code segment is 32-bit (compatibility mode)."""
    vmcb = long64_template(rip=rip, rsp=rsp, cr3=cr3, iopm_pa=iopm_pa, msrpm_pa=msrpm_pa, np=np, n_cr3=n_cr3, cpl=cpl)
    _flat(vmcb, CS32, cpl)
    return vmcb


def prot32_template(
    *, rip: int, rsp: int, iopm_pa: int, msrpm_pa: int, np: bool = False, n_cr3: int = 0, cpl: int = 0
) -> Vmcb:
    """A 32-bit protected-mode guest without paging, flat segments."""
    vmcb = _common(iopm_pa, msrpm_pa, _nested(np, n_cr3))
    _flat(vmcb, CS32, cpl)
    vmcb["cr0"] |= r.CR0_PE
    vmcb.update({"rip": rip, "rsp": rsp})
    return vmcb


def pae32_template(
    *, rip: int, rsp: int, cr3: int, iopm_pa: int, msrpm_pa: int, np: bool = False, n_cr3: int = 0, cpl: int = 0
) -> Vmcb:
    """A 32-bit guest with legacy PAE paging; `cr3` is 32-byte aligned and below 4 GiB."""
    vmcb = prot32_template(rip=rip, rsp=rsp, iopm_pa=iopm_pa, msrpm_pa=msrpm_pa, np=np, n_cr3=n_cr3, cpl=cpl)
    vmcb["cr0"] |= r.CR0_PG
    vmcb.update({"cr3": cr3, "cr4": r.CR4_PAE})
    return vmcb


def paged32_template(
    *, rip: int, rsp: int, cr3: int, iopm_pa: int, msrpm_pa: int, np: bool = False, n_cr3: int = 0, cpl: int = 0
) -> Vmcb:
    """A 32-bit guest with two-level paging and 4 MiB pages (CR4.PSE)."""
    vmcb = prot32_template(rip=rip, rsp=rsp, iopm_pa=iopm_pa, msrpm_pa=msrpm_pa, np=np, n_cr3=n_cr3, cpl=cpl)
    vmcb["cr0"] |= r.CR0_PG
    vmcb.update({"cr3": cr3, "cr4": r.CR4_PSE})
    return vmcb


def real16_template(
    *, ip: int, sp: int, iopm_pa: int, msrpm_pa: int, base: int = 0x20000, np: bool = False, n_cr3: int = 0
) -> Vmcb:
    """A real-mode guest: CS, DS, ES and SS share `base` (a multiple of 16 below 1 MiB), limits are 64 KiB, IVT at 0."""
    if base % 16 or not 0 <= base < 1 << 20:
        raise ValueError(f"real mode has no segment at {base:#x}")
    vmcb = _common(iopm_pa, msrpm_pa, _nested(np, n_cr3))
    _segments(vmcb, CS16, DATA16, 0xFFFF, base, (base >> 4, base >> 4))
    vmcb.update({"rip": ip, "rsp": sp, "idtr.limit": 0x3FF})
    return vmcb


def _flat(vmcb: Vmcb, code: int, cpl: int) -> None:
    if not 0 <= cpl <= 3:
        raise ValueError(f"there is no CPL {cpl}")
    _segments(vmcb, code | cpl << 5, DATA32 | cpl << 5, 0xFFFF_FFFF, 0, (CODE_SELECTOR | cpl, DATA_SELECTOR | cpl))
    vmcb["cpl"] = cpl


MODES = ("long64", "compat32", "prot32", "pae32", "paged32", "real16")


def make_template(
    mode: str,
    *,
    rip: int,
    rsp: int,
    iopm_pa: int,
    msrpm_pa: int,
    cr3: int = 0,
    base: int = 0x20000,
    np: bool = False,
    n_cr3: int = 0,
    cpl: int = 0,
) -> Vmcb:
    """The template of a mode by its name. `cr3` counts only where the mode pages, `base` only for real16.

    ValueError for an unknown mode, a CPL other than 0 in real mode, and np without n_cr3.
    """
    if mode == "real16":
        if cpl:
            raise ValueError("real mode runs at CPL 0")
        return real16_template(ip=rip, sp=rsp, iopm_pa=iopm_pa, msrpm_pa=msrpm_pa, base=base, np=np, n_cr3=n_cr3)
    if mode == "prot32":
        return prot32_template(rip=rip, rsp=rsp, iopm_pa=iopm_pa, msrpm_pa=msrpm_pa, np=np, n_cr3=n_cr3, cpl=cpl)
    paged = {
        "long64": long64_template,
        "compat32": compat32_template,
        "pae32": pae32_template,
        "paged32": paged32_template,
    }
    if mode not in paged:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    return paged[mode](rip=rip, rsp=rsp, cr3=cr3, iopm_pa=iopm_pa, msrpm_pa=msrpm_pa, np=np, n_cr3=n_cr3, cpl=cpl)
