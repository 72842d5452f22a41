"""CVE-2021-3653: the AVIC control bits of a VMCB whose L1 is not offered AVIC.

KVM, from 2.6.30 to 5.13, copied 060h of L1's VMCB into the one on which L2 runs, AVIC_ENABLE included, but not the
pages that go with it. The CPU then served L2's accesses to the page at the APIC's base from host physical page 0 or
from whatever the old fields named: L2 read and wrote the host's memory.

Where CPUID does not offer AVIC the bit is reserved (APM2 15.29): VMRUN is refused, or the bit has no effect, and an
access to that page is one like any other, through the nested tables. later_bits.avic.absent and .x2avic.absent ask the
same without nested paging and for the MSRs. Xen 4.17 copies 060h whole, as can be read in its nestedsvm.c; on a CPU
without AVIC nothing comes of it, and on one with AVIC these tests are not for a host that anybody needs.
"""

import pytest

from harness import VMEXIT, cases, clause, masked
from harness.svm import npf_info
from suites.lib.nested_maps import nested_guest

APIC = 0xFEE0_0000
ACCESS = {"read": "mov eax, [rbx]", "write": "mov dword ptr [rbx], 0x77"}
OWN, BACKING = 0x1122_3344, 0x55


@clause("advisories.avic.apic_page")
@pytest.mark.dangerous
@cases("access", list(ACCESS))
@cases("avic", [False, True])
def test_apic_page_that_l1_has_not_mapped(l1, avic, access):
    """The nested tables do not map it: exit 400h, with AVIC_ENABLE as without."""
    guest, nested = nested_guest(l1, f"probe: {ACCESS[access]}\nvmmcall", regs={"rbx": APIC + 0x20})
    nested.set(APIC, 0, level=2)
    guest.vmcb.update({"avic_enable": int(avic), "avic_backing_page": l1.scratch(1)})

    exit = guest.run()

    info1 = npf_info(present=False, write=access == "write")
    assert (avic and exit.is_invalid) or exit.matches(
        code=VMEXIT.NPF, rip=guest["probe"], info1=info1, info2=masked(APIC, ~0xFFF)
    )


@clause("advisories.avic.bar")
@pytest.mark.dangerous
@cases("access", list(ACCESS))
def test_page_that_the_vmcb_calls_the_apics(l1, access):
    """A page of memory, with another as backing page: L2 reaches the first."""
    page, backing = l1.scratch(1), l1.scratch(1)
    guest, _ = nested_guest(l1, f"{ACCESS[access]}\nend: vmmcall", regs={"rbx": page + 0x80})
    guest.write(page + 0x80, OWN.to_bytes(4, "little"))
    guest.write(backing, bytes([BACKING]) * 0x1000)
    guest.vmcb.update({"avic_enable": 1, "avic_bar": page, "avic_backing_page": backing})

    exit = guest.run(read={"page": (page + 0x80, 4), "backing": (backing + 0x80, 4)})

    assert exit.is_invalid or exit.reached("end")
    if exit.code == VMEXIT.VMMCALL:
        there = int.from_bytes(exit.memory["page"], "little")
        assert l1.expect("the page itself", there, 0x77 if access == "write" else OWN)
        if access == "read":
            assert l1.expect("what L2 read", exit.regs["rax"], OWN)
    assert l1.expect("the backing page", int.from_bytes(exit.memory["backing"]), BACKING * 0x0101_0101)
