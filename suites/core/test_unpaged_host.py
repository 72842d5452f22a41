"""VMRUN from a host that does not page.

VMRUN asks for protected mode and nothing more (APM2 15.5.1); only nested paging needs a host with CR0.PG=1. So a
32-bit host in flat unpaged protected mode may run a guest, and #VMEXIT brings it back to where it was, paging still
off. An L0 that handles long mode alone raises #UD, or reloads a CR0 with paging on.
"""

import pytest

from harness import VMEXIT, clause
from suites.lib.legacy_host import down_and_up

# The VMCB is at EBX. EDI is CR0 right after #VMEXIT.
VMRUN_UNPAGED = """
    mov edi, 0
    mov eax, ebx
    vmrun
    mov edi, cr0
"""


@clause("core.preconditions.unpaged_host")
@pytest.mark.parametrize("mode", ["prot32", "paged32", "pae32", "long64", "real16"])
def test_vmrun_from_unpaged_host(l1, mode):
    """What L2 does about paging is its own affair."""
    guest = l1.guest("end: vmmcall", mode=mode)
    placed = guest.run()
    assert placed.ran
    l1.write(guest.vmcb_pa, bytes(placed.before.data))

    result = l1.code(down_and_up(VMRUN_UNPAGED), {"rbx": guest.vmcb_pa})
    code = int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")

    assert result.returned
    assert l1.expect("the vector that VMRUN raised in L1", result.reg("rbp"), 0xFFFF_FFFF, width_bytes=4)
    assert l1.expect("EXITCODE[31:0]", code, VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("CR0.PG and CR0.PE after #VMEXIT", result.reg("rdi") & 0x8000_0001, 1, width_bytes=4)
