"""Exits that L0 has for itself, and L1 did not ask for: they must not reach a place that thinks them impossible.

No advisory: Xen 4.17 to 4.22 can be read to end in BUG(), with the host, for an exit of L2 whose code is none of those
that nsvm_vmcb_guest_intercepts_exitcode() lists: RDPRU (8Eh), which Xen intercepts for every guest, the write traps
(8Fh to 9Fh), which an L1 turns on for L2 by bits that Xen copies, and AVIC's (401h, 402h). Hardware either has the
instruction or the intercept, or L2 sees #UD or nothing (APM2 15.9, App. C). Not for a host that anybody needs.
"""

import pytest

from harness import VMEXIT, any_of, cases, clause

WRITES = {
    "cr0": ("mov rdx, cr0\nat: mov cr0, rdx", 0x90),
    "cr3": ("mov rdx, cr3\nat: mov cr3, rdx", 0x93),
    "cr4": ("mov rdx, cr4\nat: mov cr4, rdx", 0x94),
    "cr8": ("xor edx, edx\nat: mov cr8, rdx", 0x98),
    "efer": ("mov ecx, 0xc0000080\nrdmsr\nat: wrmsr", 0x8F),
}
WRITE_TRAPS = 0xFFFF_8000  # 010h bits 31:15


@clause("advisories.unasked.write_traps")
@pytest.mark.dangerous
@cases("register", list(WRITES))
def test_write_traps(l1, register):
    """All of them, in the VMCB of an L1 that need not be offered any: the trap, nothing, or a refusal."""
    code, trap = WRITES[register]
    guest = l1.guest(f"{code}\nend: vmmcall")
    guest.vmcb["intercept_misc2"] |= WRITE_TRAPS

    exit = guest.run()

    assert exit.is_invalid or exit.matches(code=any_of(VMEXIT.VMMCALL, trap), rip=guest["end"])
    assert l1.guest("end: vmmcall").run().reached("end")


@clause("advisories.unasked.rdpru", "advisories.unasked.rdpru_absent")
@pytest.mark.dangerous
@cases("np", [False, True])
def test_rdpru_that_l1_does_not_intercept(l1, np):
    if np:
        l1.need("NP")
    guest = l1.guest("nop\nat: .byte 0x0f, 0x01, 0xfd\nend: vmmcall", np=np, regs={"rcx": 0})

    exit = guest.run()

    code = l1.either("RDPRU", offered=VMEXIT.VMMCALL, absent=VMEXIT.EXCP_UD)
    rip = l1.either("RDPRU", offered=guest["end"], absent=guest["at"])
    assert exit.matches(code=code, rip=rip)
    assert l1.guest("end: vmmcall").run().reached("end")
