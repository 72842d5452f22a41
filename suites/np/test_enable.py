"""NP_ENABLE puts a second translation under L2's own.

With 090h[0]=1 every guest physical address goes through the tables at N_CR3, in every mode of L2 and with L2's paging
off as well; with 0 a guest physical address is L1's physical address (APM2 15.25, 15.25.5). The tables have the format
of L1's paging mode at VMRUN, whatever L2 does with its CR4 (15.25.3). A wrong L0 forgets the nested tables where L2
does not page, reads them by L2's CR4, or uses N_CR3 although nested paging is off: L2 then reaches memory that L1 gave
to another.
"""

import pytest

from harness import VMEXIT, clause, unchanged
from suites.lib.nested_maps import OPEN, access_code, nested_guest

HERE, THERE = 0x3C, 0xC3
LOW = 0x2_5000  # what a real-mode guest can reach: offset 5000h of its segment
MODES = ["long64", "compat32", "pae32", "paged32", "prot32", "real16"]


def remapped(l1, mode="long64", code=None, **options):
    """L2 accesses a page (by default it reads) whose guest physical address the nested tables lead to another page.

    Gives the guest and the addresses of the two pages.
    """
    here, there = LOW if mode == "real16" else l1.scratch(1), l1.scratch(1)
    text = code or access_code("read", mode)
    guest, nested = nested_guest(l1, text, mode=mode, regs={"rbx": here & 0xFFFF if mode == "real16" else here})
    nested.set(here, there | OPEN)
    guest.write(here, bytes([HERE]))
    guest.write(there, bytes([THERE]))
    guest.vmcb.update(options)
    return guest, here, there


@clause("np.enable.on", "np.modes.unpaged")
@pytest.mark.parametrize("np", [0, 1], ids=["np_off", "np_on"])
@pytest.mark.parametrize("mode", MODES)
def test_translation_by_n_cr3(l1, mode, np):
    """The same VMCB and the same tables; NP_ENABLE alone decides which page L2 reads."""
    guest, _, _ = remapped(l1, mode, np_enable=np)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte that L2 reads", exit.regs["rax"] & 0xFF, THERE if np else HERE, width_bytes=1)


@clause("np.enable.on", "np.modes.unpaged")
@pytest.mark.parametrize("mode", ["long64", "pae32", "real16"])
def test_write_goes_where_n_cr3_leads(l1, mode):
    """And nowhere else: the page at the guest physical address itself keeps its byte."""
    guest, here, there = remapped(l1, mode, access_code("write", mode))

    exit = guest.run(read={"here": (here, 1), "there": (there, 1)})

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"])
    assert l1.expect("the byte at N_CR3's target", exit.memory["there"][0], 0x77, width_bytes=1)
    assert l1.expect("the byte at the address itself", exit.memory["here"][0], HERE, width_bytes=1)


@clause("np.modes.host_cr4")
@pytest.mark.parametrize("bit", [4, 5, 7], ids=["pse", "pae", "pge"])
def test_nested_format_does_not_follow_l2s_cr4(l1, bit):
    """L2 in unpaged protected mode sets a bit of CR4 that would choose a table format, then reads."""
    code = f"mov eax, cr4\nbts eax, {bit}\nmov cr4, eax\n" + access_code("read", "prot32")
    guest, _, _ = remapped(l1, "prot32", code)

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"], cr4=1 << bit)
    assert l1.expect("the byte that L2 reads", exit.regs["rax"] & 0xFF, THERE, width_bytes=1)


@clause("np.enable.n_cr3_not_written")
@pytest.mark.parametrize("low", [0, 0x18], ids=["plain", "pwt_pcd"])
@pytest.mark.parametrize("np", [0, 1], ids=["np_off", "np_on"])
def test_n_cr3_is_not_written_back(l1, np, low):
    """L2 loads its own CR3 meanwhile, which is another register."""
    guest, nested = nested_guest(l1, "mov rax, cr3\nmov cr3, rax\ndone: vmmcall", vmcb={"np_enable": np})
    guest.vmcb["n_cr3"] |= low

    exit = guest.run()

    assert exit.matches(code=VMEXIT.VMMCALL, rip=guest["done"], n_cr3=nested.base | low, cr3=unchanged)
