"""L2 flushes its translations by CR4, and keeps them apart by PCID.

A change of CR4.PSE, and of CR4.PCIDE from 1 to 0, drops translations as on a machine of L2's own (APM2 15.16.1,
5.5.3); PCIDs are tags within L2's ASID (5.5.1). An L0 that lets L2 write CR4 but has its own tables
behind it must notice each of these bits.
"""

from harness import CR4, any_of, cases, clause
from suites.lib.tlb_maps import AT_HERE, AT_THERE, THERE, FarPage, far_guest, read_byte

BY_CR4 = {
    "pse_set": ("", CR4.PAE, CR4.PAE | CR4.PSE),
    "pse_cleared": ("", CR4.PAE | CR4.PSE, CR4.PAE),
    "pcide_cleared": ("PCID", CR4.PAE | CR4.PCIDE, CR4.PAE),
}


def bytes_around(l1, feature, before, after, np):
    """L2 reads, turns its entry elsewhere, writes CR4, and reads again: the two bytes, the second one above."""
    l1.need(*([feature] if feature else []), *(["NP"] if np else []))
    code = (
        f"mov dl, [rbx]\nmov [rdi], esi\nmov eax, {after:#x}\nmov cr4, rax\nmov dh, [rbx]\nmovzx eax, dx\nend: vmmcall"
    )
    guest, _ = far_guest(l1, code, np=np)
    guest.vmcb["cr4"] = before

    exit = guest.run()

    assert exit.reached("end")
    return exit.regs["rax"]


@clause("core.tlb.guest_flush_by_cr4")
@cases("np", [False, True])
@cases("feature, before, after", BY_CR4)
def test_change_of_cr4(l1, feature, before, after, np):
    """The second byte is from where the entry leads now."""
    seen = bytes_around(l1, feature, before, after, np)

    assert l1.expect("the bytes before (low) and after (high)", seen, AT_THERE << 8 | AT_HERE)


@clause("core.tlb.guest_pke")
@cases("np", [False, True])
def test_pke(l1, np):
    """Dropped or not."""
    seen = bytes_around(l1, "PKU", CR4.PAE, CR4.PAE | CR4.PKE, np)

    expected = any_of(AT_THERE << 8 | AT_HERE, AT_HERE << 8 | AT_HERE)
    assert l1.expect("the bytes before (low) and after (high)", seen, expected)


PCIDS = """
    mov cl, [rbx]
    mov cr3, r8
    mov ch, [rbx]
    bts rdi, 63
    mov cr3, rdi
    mov al, [rbx]
    end: vmmcall
"""


@clause("core.tlb.guest_pcid")
@cases("np", [False, True])
def test_two_pcids(l1, np):
    """Tables of PCID 5, those of PCID 6, and back to 5 with bit 63, which flushes nothing."""
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, PCIDS, np=np)
    other = FarPage(l1)
    other.place(guest, target=THERE)
    guest.vmcb.update({"cr4": CR4.PAE | CR4.PCIDE, "cr3": far.base | 5})
    guest.regs.update({"r8": other.base | 6, "rdi": far.base | 5, "rcx": 0})

    exit = guest.run()

    assert exit.reached("end", regs={"rcx": AT_THERE << 8 | AT_HERE})
    assert l1.expect("the byte back under PCID 5", read_byte(exit), AT_HERE, width_bytes=1)
