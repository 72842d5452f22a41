"""L1 edits L2's paging in the VMCB.

VMRUN loads CR0, CR3, CR4 and EFER without a flush: L1 asks for one after it has changed CR0.PG or WP, CR3, CR4.PAE, PSE
or PGE, EFER.NXE, LME or LMA (APM2 15.16). Then the new mode counts. An L0 that keeps shadow tables by CR3 alone goes on
with those of the old mode.
"""

from harness import CR0, CR4, EFER, VMEXIT, cases, clause, masked
from harness.svm.paging import NX
from suites.lib.tlb_maps import AT_HERE, AT_THERE, FAR, HERE, LARGE, OFFSET, THERE, FarPage, far_guest, read_byte

CONTROL = {"flush_all": 1, "flush_asid": 3}


def flush_of(l1, control):
    """The field that asks for it; skips where it is not offered."""
    if control == 3:
        l1.need("FlushByAsid")
    return {"tlb_control": control}


def start(l1, code, mode="long64", **options):
    """A guest that reads its far page once."""
    guest, far = far_guest(l1, f"again: {code}\nend: vmmcall", mode, **options)
    return guest, far


RSV = 8  # in the error code
PF, WRITE = 0x40 + 14, "mov byte ptr [rbx], 0x77"


@clause("core.tlb.paging_mode")
@cases("wp", {"set": (0, 1), "cleared": (1, 0)})
@cases("control", CONTROL)
def test_cr0_wp(l1, control, wp):
    """A write to a read-only page at CPL 0."""
    flush = flush_of(l1, control)
    guest, far = start(l1, f"insn: {WRITE}")
    guest.write(far.entry, far.value(HERE, LARGE & ~2))
    before, after = (guest.vmcb["cr0"] | bit * CR0.WP for bit in wp)
    ends = {CR0.WP: (PF, "insn"), 0: (VMEXIT.VMMCALL, "end")}
    guest.vmcb["cr0"] = before
    code, label = ends[before & CR0.WP]
    assert guest.run().matches(code=code, rip=guest[label])

    exit = guest.resume("again", cr0=after, **flush)

    code, label = ends[after & CR0.WP]
    assert exit.matches(code=code, rip=guest[label])


@clause("core.tlb.paging_mode")
@cases("control", CONTROL)
@cases("mode", ["long64", "pae32"])
def test_efer_nxe(l1, mode, control):
    """Bit 63 of an entry is reserved once NXE is 0: a read that went well raises #PF with RSV."""
    l1.need("NX")
    flush = flush_of(l1, control)
    guest, far = start(l1, f"insn: mov al, [{'rbx' if mode == 'long64' else 'ebx'}]", mode)
    guest.write(far.entry, far.value(HERE, LARGE | NX))
    guest.vmcb["efer"] |= EFER.NXE
    assert guest.run().reached("end")

    exit = guest.resume("again", efer=guest.vmcb["efer"] & ~EFER.NXE, **flush)

    assert exit.matches(code=PF, rip=guest["insn"], info1=masked(RSV, RSV))


@clause("core.tlb.paging_mode")
@cases("control", CONTROL)
@cases("mode", ["long64", "pae32", "paged32"])
def test_cr3(l1, mode, control):
    """Other tables for the same linear address."""
    flush = flush_of(l1, control)
    guest, _ = start(l1, f"mov al, [{'rbx' if mode == 'long64' else 'ebx'}]", mode)
    other = FarPage(l1, mode)
    other.place(guest, target=THERE)
    assert l1.expect("the byte at first", read_byte(guest.run()), AT_HERE, width_bytes=1)

    exit = guest.resume("again", cr3=other.base, **flush)

    assert exit.reached("end")
    assert l1.expect("the byte under the other CR3", read_byte(exit), AT_THERE, width_bytes=1)


LEGACY = {"efer": EFER.SVME, "cr0": CR0.PG | CR0.PE | CR0.ET | CR0.NE}
AS_MODE = {
    "paged32": LEGACY | {"cr4": CR4.PSE},
    "pae32": LEGACY | {"cr4": CR4.PAE},
    "compat32": LEGACY | {"cr4": CR4.PAE, "efer": EFER.SVME | EFER.LME | EFER.LMA},
}


@clause("core.tlb.paging_mode")
@cases("control", CONTROL)
@cases(
    "before, after",
    [("paged32", "pae32"), ("pae32", "paged32"), ("pae32", "compat32"), ("compat32", "pae32"), ("compat32", "paged32")],
)
def test_another_paging_mode(l1, before, after, control):
    """The same 32-bit code, under tables of another kind that lead elsewhere."""
    flush = flush_of(l1, control)
    guest, _ = start(l1, "mov al, [ebx]", before)
    other = FarPage(l1, after)
    other.place(guest, target=THERE)
    assert l1.expect("the byte at first", read_byte(guest.run()), AT_HERE, width_bytes=1)

    exit = guest.resume("again", cr3=other.base, **AS_MODE[after], **flush)

    assert exit.reached("end")
    assert l1.expect("the byte under the other mode", read_byte(exit), AT_THERE, width_bytes=1)


@clause("core.tlb.paging_mode")
@cases("control", CONTROL)
@cases("pg", {"cleared": (1, 0), "set": (0, 1)})
def test_cr0_pg(l1, pg, control):
    """With paging a low page leads elsewhere, without it to itself."""
    flush = flush_of(l1, control)
    guest, far = start(l1, "mov al, [ebx]", "paged32")
    guest.write(far.entry - (FAR >> 22) * 4 + (HERE >> 22) * 4, far.value(THERE))
    guest.regs["rbx"] = HERE + OFFSET
    bytes_read = {1: AT_THERE, 0: AT_HERE}
    values = [guest.vmcb["cr0"] & ~CR0.PG | bit * CR0.PG for bit in pg]
    guest.vmcb["cr0"] = values[0]
    assert l1.expect("the byte at first", read_byte(guest.run()), bytes_read[pg[0]], width_bytes=1)

    exit = guest.resume("again", cr0=values[1], **flush)

    assert exit.reached("end", rax=masked(bytes_read[pg[1]], 0xFF))
