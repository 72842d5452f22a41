"""Known-good VMCB images for the memory map that scenarios share (harness/scenario/places.py)."""

from __future__ import annotations

from functools import cache

from harness.scenario import places
from harness.svm import Vmcb, templates


def vmcb_image(mode: str, *, np: bool = False, cpl: int = 0) -> Vmcb:
    """A VMCB for that mode. Raises KeyError for a mode that does not exist."""
    return _image(mode, np, cpl).copy()


@cache
def _image(mode: str, np: bool, cpl: int) -> Vmcb:
    maps = {"iopm_pa": places.IOPM, "msrpm_pa": places.MSRPM}
    n_cr3 = places.TABLES_NESTED if np else 0
    if mode == "real16":
        return templates.real16_template(
            ip=0,
            sp=places.LOW_STACK_TOP,
            base=places.LOW_GUEST,
            iopm_pa=places.IOPM,
            msrpm_pa=places.MSRPM,
            np=np,
            n_cr3=n_cr3,
        )
    flat = {"rip": places.GUEST_CODE, "rsp": places.GUEST_STACK_TOP, "n_cr3": n_cr3, "cpl": cpl, **maps}
    match mode:
        case "long64":
            return templates.long64_template(cr3=places.TABLES_LONG, np=np, **flat)
        case "compat32":
            return templates.compat32_template(cr3=places.TABLES_LONG, np=np, **flat)
        case "pae32":
            return templates.pae32_template(cr3=places.TABLES_PAE, np=np, **flat)
        case "paged32":
            return templates.paged32_template(cr3=places.TABLES_LEGACY, np=np, **flat)
        case "prot32":
            return templates.prot32_template(np=np, **flat)
    raise KeyError(f"no such mode: {mode}")


def move(image: Vmcb, mode: str, code_base: int, stack_top: int) -> None:
    """Has the guest begin at another place: RIP and RSP, in real mode the segments and RSP."""
    if mode == "real16":
        for segment in ("cs", "ds", "es", "ss"):
            image[f"{segment}.base"] = code_base
            image[f"{segment}.selector"] = code_base >> 4
    else:
        image["rip"] = code_base
    image["rsp"] = stack_top
