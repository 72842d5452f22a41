"""CVE-2026-46071: the clean field of L1's VMCB is L1's.

KVM from 5.19 (to 6.18.26, 7.0.3; 6.1.192 has it mended, by its source) marked last branch records as changed in L1's
VMCB, when it copied them there at #VMEXIT: bit 10 of 0C0h, which L1 had set, was clear afterwards. Hardware reads the
field and does not change it (APM2 15.15.3), so a hypervisor that keeps account of it is misled, or a later VMRUN loads
what need not be loaded. That no other field of the control area changes is asked after each VMRUN of the suites
(core.exit.control_area_untouched); there bit 10 is rarely set.
"""

from harness import VMEXIT, cases, clause, unchanged

ALL = 0xFFFF_FFFF


@clause("advisories.clean.field_is_l1s")
@cases("lbr", {"lbr_virtualized": 1, "lbr_off": 0})
@cases("code, exitcode", {"vmmcall": ("nop", VMEXIT.VMMCALL), "cpuid": ("cpuid", VMEXIT.CPUID)})
def test_clean_field_after_the_second_run(l1, code, exitcode, lbr):
    """The same VMCB again, unmodified, with the bits set."""
    if lbr:
        l1.need("LbrVirt")
    guest = l1.guest(f"next: jmp on\non: {code}\nend: vmmcall", intercept=["cpuid"], vmcb={"lbr_virt_enable": lbr})
    assert guest.run().ran

    exit = guest.resume("next", clean=ALL)

    assert exit.matches(code=exitcode, clean=unchanged)
