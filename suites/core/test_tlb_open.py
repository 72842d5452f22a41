"""Where a translation may be old or new.

Without a flush that reaches its ASID a guest may see an entry as it was when it was last used, or as it is, and nothing
else: after another ASID ran, after L1's own MOV CR3 and INVLPG, after INVLPGA for a nested entry, after a flush of L2's
that L1 intercepts, and after a VMRUN that was refused (APM2 15.16). The flush that follows brings the new. The write of
an MTRR is one that reaches all ASIDs (15.16.1). An L0 that mixes its guests up shows a third: another guest's memory.
"""

from harness import VMEXIT, any_of, cases, clause
from suites.lib.needs import need_two_asids
from suites.lib.nested_maps import OPEN, entry_bytes, nested_guest
from suites.lib.tlb_maps import AT_HERE, AT_THERE, FAR, HERE, OFFSET, THERE, far_guest, read_byte

READ = "again: mov al, [rbx]\nend: vmmcall\n"
EITHER = any_of(AT_HERE, AT_THERE)


def used(l1, code="", *, np=False, **options):
    """A guest that has read its far page, which L1 then turned elsewhere."""
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, READ + code, np=np, **options)
    assert l1.expect("the byte that L2 reads first", read_byte(guest.run()), AT_HERE, width_bytes=1)
    far.turn(l1)
    return guest


def reads(l1, guest, expected, **fields):
    """L2 reads its far page; whether it is the byte expected."""
    exit = guest.resume("again", **fields)
    assert exit.reached("end")
    return l1.expect("the byte that L2 reads", read_byte(exit), expected, width_bytes=1)


@clause("core.tlb.return_to_an_asid")
@cases("np", [False, True])
def test_back_to_an_asid(l1, np):
    """ASID 2 runs meanwhile, and reads the page as it is."""
    need_two_asids(l1)
    guest = used(l1, np=np)
    assert reads(l1, guest, AT_THERE, asid=2, tlb_control=0)

    assert reads(l1, guest, EITHER, asid=1)

    assert reads(l1, guest, AT_THERE, tlb_control=1)


OWN_FLUSHES = {"mov_cr3": "mov rax, cr3\nmov cr3, rax", "invlpg": "invlpg [rbx]", "none": "nop"}


@clause("core.tlb.l1_flushes_itself")
@cases("np", [False, True])
@cases("flush", OWN_FLUSHES)
def test_l1_flushes_its_own_translations(l1, flush, np):
    """For the very address that L2 uses."""
    guest = used(l1, np=np)
    assert l1.code(flush, {"rbx": FAR + OFFSET}).returned

    assert reads(l1, guest, EITHER, tlb_control=0)

    assert reads(l1, guest, AT_THERE, tlb_control=1)


PHYS_BASE, PHYS_MASK = 0x20E, 0x20F  # the last of eight variable ranges


@clause("core.tlb.mtrr_write")
@cases("np", [False, True])
def test_mtrr_write(l1, np):
    """Another base for a variable range that is off, and back."""
    base, mask = l1.rdmsr(PHYS_BASE), l1.rdmsr(PHYS_MASK)
    if base.value is None or mask.value is None or mask.value & 1 << 11:
        l1.need("!MTRR")  # there is no eighth range, or it is in use
    guest = used(l1, np=np)
    assert l1.wrmsr(PHYS_BASE, base.value ^ 0x10_0000).fault is None
    assert l1.wrmsr(PHYS_BASE, base.value).fault is None

    assert reads(l1, guest, EITHER, tlb_control=0)
    assert reads(l1, guest, AT_THERE, tlb_control=1)


@clause("core.tlb.invlpga_nested")
@cases("by", ["linear", "physical"])
def test_invlpga_after_a_nested_change(l1, by):
    """L2's linear address of the page, which is its guest physical one as well."""
    page, other = l1.scratch(1), l1.scratch(1)
    guest, nested = nested_guest(l1, READ, regs={"rbx": page})
    guest.write(page, bytes([AT_HERE]))
    guest.write(other, bytes([AT_THERE]))
    assert l1.expect("the byte that L2 reads first", read_byte(guest.run()), AT_HERE, width_bytes=1)
    l1.write(nested.entry(page), entry_bytes(other | OPEN))
    assert l1.code("invlpga", {"rax": page if by == "linear" else other, "rcx": 1}).returned

    assert reads(l1, guest, EITHER, tlb_control=0)

    assert reads(l1, guest, AT_THERE, tlb_control=1)


INTERCEPTED = {
    "invlpg": ("invlpg [rbx]", ["invlpg"], VMEXIT.INVLPG),
    "invlpga": ("invlpga", ["invlpga"], VMEXIT.INVLPGA),
    "mov_cr3": ("mov cr3, rdx", ["cr3_write"], 0x13),
}


@clause("core.tlb.intercepted")
@cases("insn, intercept, code", INTERCEPTED)
def test_flush_of_l2_that_is_intercepted(l1, insn, intercept, code):
    """L1 sees the exit and does nothing."""
    guest = used(l1, f"flush: {insn}\nvmmcall", intercept=intercept)
    guest.regs.update({"rdx": guest.vmcb["cr3"], "rcx": 1})
    exit = guest.resume("flush", tlb_control=0, rax=FAR + OFFSET)
    assert exit.matches(code=code, rip=guest["flush"])

    assert reads(l1, guest, EITHER)

    assert reads(l1, guest, AT_THERE, tlb_control=1)


@clause("core.tlb.refused_vmrun")
def test_refused_vmrun_with_a_flush(l1):
    """Refused for its CR0; then the same VMCB with a legal one and no flush."""
    guest = used(l1)
    good = bytes(guest.vmcb.data)
    assert guest.resume("again", cr0=guest.vmcb["cr0"] | 1 << 32, tlb_control=1).is_invalid
    guest.vmcb.data[:] = good

    assert reads(l1, guest, EITHER, tlb_control=0)

    assert reads(l1, guest, AT_THERE, tlb_control=1)


ASIDS_MAX = 40


@clause("core.tlb.asid_cycle")
@cases("np", [False, True])
def test_one_asid_after_the_other(l1, np):
    """Twice round; the entry is turned before each run, and all is flushed when a round begins."""
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, READ, np=np)
    assert guest.run().reached("end")
    last = min(l1.cpuid.nasid - 1, ASIDS_MAX)
    for turn in range(2 * last):
        asid = turn % last + 1
        page, byte = ((THERE, AT_THERE), (HERE, AT_HERE))[turn % 2]
        far.turn(l1, page)
        exit = guest.resume("again", asid=asid, tlb_control=int(asid == 1))
        assert exit.reached("end")
        assert l1.expect(f"the byte that ASID {asid} reads", read_byte(exit), byte, width_bytes=1)


@clause("core.tlb.guest_invlpga")
@cases("np", [False, True])
@cases("which", ["host", "own", "last", "all_ones"])
def test_invlpga_in_l2(l1, which, np):
    """For an address that L1 itself uses, in the ASID that ECX names."""
    if np:
        l1.need("NP")
    asid = {"host": 0, "own": 1, "last": l1.cpuid.nasid - 1, "all_ones": 0xFFFF_FFFF}[which]
    page = l1.scratch(1)
    l1.write(page, b"\x5a")
    guest = l1.guest("mov rax, rbx\ninsn: invlpga\nend: vmmcall", np=np, regs={"rbx": page, "rcx": asid})

    assert guest.run().reached("end")
    assert l1.expect("the byte that L1 reads", l1.read(page, 1)[0], 0x5A, width_bytes=1)
