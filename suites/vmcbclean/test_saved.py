"""What #VMEXIT saves of a field that L1 changed.

Limits and attributes cannot be read in L2. But #VMEXIT stores what VMRUN has loaded (APM2 15.6): with the clean bit
clear that is the new value, with the bit set the new or the old one. L2 does nothing but VMMCALL.
"""

from harness import any_of, cases, clause
from harness.svm import Clean, field
from suites.vmcbclean.probes import BASE_CR0, bit_set, clear

_DATA_OLD, _DATA_NEW = 0xC93, 0xC91  # writable, read-only
# Segments of a 32-bit guest, whose parts all mean something.
FIELDS = {
    "cs.limit": (0xFFFF_FFFF, 0x7FFF_FFFF),
    "cs.attrib": (0xC9B, 0xC99),
    "cs.selector": (0x08, 0x38),
    **{f"{name}.selector": (0x10, 0x48) for name in ("ss", "ds", "es")},
    **{f"{name}.base": (0, 0x0030_0000) for name in ("ss", "ds", "es")},
    **{f"{name}.limit": (0xFFFF_FFFF, 0x7FFF_FFFF) for name in ("ss", "ds", "es")},
    **{f"{name}.attrib": (_DATA_OLD, _DATA_NEW) for name in ("ds", "es")},
    "ss.attrib": (0xC93, 0x893),
    "gdtr.base": (0x0012_3000, 0x0045_6780),
    "gdtr.limit": (0x1237, 0x0457),
    "idtr.base": (0x0067_8000, 0x0098_7650),
    "idtr.limit": (0x0FFF, 0x0237),
    "cr0": (BASE_CR0 & ~(1 << 31), BASE_CR0 & ~(1 << 31) | 1 << 18),
    "cr2": (0x1111_2222, 0x3333_4444),
    "cr3": (0x0012_3000, 0x0045_6000),
    "cr4": (0, 1 << 2),
    "efer": (0x1000, 0x1001),
    "dr6": (0xFFFF_0FF0, 0xFFFF_4FF0),
    "dr7": (0x400, 0x00DF_0400),
}


def changed(l1, name, clean):
    """The exit after L1 has changed the field."""
    old, new = FIELDS[name]
    guest = l1.guest("again: vmmcall", mode="prot32", vmcb={name: old})
    assert guest.run().reached("again", fields={name: old})
    guest.vmcb[name] = new
    guest.vmcb["clean"] = clean
    return guest.run()


def cleared(*bits):
    """The fields behind these bits, each with its clean fields."""
    return {
        f"{name}-{how}": (name, clean)
        for name in FIELDS
        if field(name).clean_bit in bits
        for how, clean in clear(field(name).clean_bit).items()
    }


@clause("vmcbclean.seg", "vmcbclean.absent")
@cases("name, clean", cleared(Clean.SEG))
def test_segment_changed(l1, name, clean):
    """Every part of the four segments."""
    assert changed(l1, name, clean).reached("again", fields={name: FIELDS[name][1]})


@clause("vmcbclean.crx", "vmcbclean.drx", "vmcbclean.dt", "vmcbclean.cr2", "vmcbclean.absent")
@cases("name, clean", cleared(Clean.CRX, Clean.DRX, Clean.DT, Clean.CR2))
def test_register_changed(l1, name, clean):
    """Registers that L2 can read, too."""
    assert changed(l1, name, clean).reached("again", fields={name: FIELDS[name][1]})


SET = {name: (name, bit_set(field(name).clean_bit)["alone"]) for name in FIELDS}


@clause("vmcbclean.hint", "vmcbclean.absent")
@cases("name, clean", SET)
def test_saved_and_bit_says_unchanged(l1, name, clean):
    """Old or new, never a third."""
    old, new = FIELDS[name]

    exit = changed(l1, name, clean)

    assert exit.reached("again", fields={name: l1.either("VmcbClean", offered=any_of(old, new), absent=new)})
