"""XSA-454 (CVE-2023-46842) and XSA-444 (CVE-2023-34327): registers that another context reads.

XSA-454: Xen 3.2 to 4.18 continued a hypercall of a 32-bit guest with whatever its registers' upper halves held. Not
about nesting. Here L2 runs in 32-bit code with patterns in the upper halves; where a CPU leaves 64-bit mode they are
undefined (APM1 3.1.2), but they are L1's, or 0, or L2's own, and never L0's.

XSA-444: Xen 4.5 to 4.17 left a guest's address masks of debug registers (DBEXT) in the CPU for the next guest; -34328
was the host's own audit of paravirtual ones. An L1 without DBEXT must not find these MSRs: they raise #GP(0). With
DBEXT they are no part of the VMCB where it is not encrypted, so that L1 and L2 have them in common, as DR0 to DR3.
"""

from harness import GP, VMEXIT, any_of, cases, clause, read_msr, write_msr

PATTERN = 0x1122_3344_0000_0000
LOW = 0xFFFF_FFFF
MASKS = {"dr0": 0xC001_1027, "dr1": 0xC001_1019, "dr2": 0xC001_101A, "dr3": 0xC001_101B}
NAMES = ("rcx", "rdx", "rbx", "rbp", "rsi", "rdi")


@clause("advisories.registers.upper_halves")
@cases("code, exitcode", {"vmmcall": ("vmmcall", VMEXIT.VMMCALL), "cpuid": ("cpuid", VMEXIT.CPUID)})
@cases("mode", ["compat32", "prot32"])
def test_upper_halves_of_32_bit_code(l1, mode, code, exitcode):
    values = {name: PATTERN + (number << 32) + 0x5000 + number for number, name in enumerate(NAMES)}
    guest = l1.guest(f"nop\nat: {code}\nvmmcall", mode=mode, intercept=["cpuid"], regs=values)
    guest.vmcb["rax"] = PATTERN | 0x77

    exit = guest.run()

    assert exit.matches(code=exitcode, rip=guest["at"])
    assert l1.expect("RAX", exit.vmcb["rax"], any_of(PATTERN | 0x77, 0x77))
    for name, value in values.items():
        assert l1.expect(name.upper(), exit.regs[name], any_of(value, value & LOW))


@clause("advisories.registers.no_address_masks")
@cases("name", list(MASKS))
def test_address_masks_without_dbext(l1, name):
    """In L1, and in an L2 whose accesses are not intercepted."""
    guest = l1.guest(read_msr(MASKS[name]), intercept=["msr"])

    assert l1.rdmsr(MASKS[name]).faults(GP, 0)
    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["read"])


@clause("advisories.registers.address_masks")
@cases("name", list(MASKS))
def test_address_masks_are_l1s(l1, name):
    """L2 reads what L1 wrote, and L1 what L2 wrote."""
    msr = MASKS[name]
    guest = l1.guest(f"{read_msr(msr)}next: {write_msr(msr, 0x0F0)}end: vmmcall", intercept=["msr"])
    assert l1.wrmsr(msr, 0x3C).ok

    first = guest.run()
    second = guest.resume("next")
    after = l1.rdmsr(msr)
    assert l1.wrmsr(msr, 0).ok

    assert first.reached("done")
    assert l1.expect("the mask that L2 reads", first.msr, 0x3C)
    assert second.reached("end")
    assert after.reads(0xF0)
