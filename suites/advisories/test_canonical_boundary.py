"""XSA-9 (CVE-2012-2934), XSA-170 (CVE-2016-2271) and XSA-193 (CVE-2016-9385): addresses that are not canonical.

None of them concerns nesting. XSA-9 is an erratum of AMD's K8 (121): code that runs over the last canonical address
hangs the processor, and Xen refuses to boot there; these tests skip K8. XSA-170 is Xen on Intel, where VM entry refuses
such an RIP; SVM does not check it (core.checks.rip_not_checked asks). XSA-193 is Xen's emulator for paravirtual guests,
which wrote the base of FS or GS without a look and took the host's own #GP.

Hardware raises #GP(0) at the fetch of the byte behind 7FFF_FFFF_FFFFh, and WRMSR of a value that is not canonical to a
base raises #GP(0) and writes nothing. An L0 that carries out WRMSR for L2 without the check takes that exception
itself.
"""

import pytest

from harness import GP, VMEXIT, any_of, cases, clause, write_msr
from harness.svm.paging import LongTables

LAST_PAGE = 0x7FFF_FFFF_F000
BEHIND = any_of(0x0000_8000_0000_0000, 0xFFFF_8000_0000_0000)
FIRST_FAMILY_WITHOUT_ERRATUM_121 = 0x10
_TABLE_PAGES = 8
_LOW_BYTES = 0x200_0000

BASES = {
    "fs_base": 0xC000_0100, "gs_base": 0xC000_0101, "kernel_gs_base": 0xC000_0102,
    "lstar": 0xC000_0082, "cstar": 0xC000_0083,
}  # fmt: skip
NOT_CANONICAL = 0x8000_1234_5678_9ABC


def _family(l1):
    eax = l1.cpuid_now(1)[0]
    return (eax >> 8 & 0xF) + (eax >> 20 & 0xFF)


@clause("advisories.canonical.run_over_the_end")
@cases("np", [False, True])
@cases(
    "code, at, rip",
    {
        "nop": (b"\x90", 0xFFF, BEHIND),
        "crossing": (b"\xb8\x44\x33\x22", 0xFFC, LAST_PAGE + 0xFFC),  # MOV EAX, imm32 without its last byte
    },
)
def test_code_runs_over_the_last_canonical_address(l1, code, at, rip, np):
    if _family(l1) < FIRST_FAMILY_WITHOUT_ERRATUM_121:
        pytest.skip(f"family {_family(l1):X}h may have erratum 121: the test would hang it")
    if np:
        l1.need("NP")
    page, tables = l1.scratch(1), l1.scratch(_TABLE_PAGES)
    own = LongTables(tables, tables + _TABLE_PAGES * 4096)
    own.identity(_LOW_BYTES)
    own.map(LAST_PAGE, page)
    guest = l1.guest(f"movabs rbx, {LAST_PAGE + at:#x}\njmp rbx", np=np, vmcb={"cr3": tables})
    for address, data in own.pages().items():
        guest.write(address, data)
    guest.write(page + at, code)

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=rip)


@clause("advisories.canonical.base_written")
@cases("msr", BASES)
def test_base_that_is_not_canonical_is_not_written(l1, msr):
    """L1 lets L2 at the MSR, which is L1's own. A canonical value is written."""
    before = l1.rdmsr(msr)
    good = l1.guest(write_msr(msr, before.value) + "end: vmmcall", intercept=["msr"])
    guest = l1.guest(write_msr(msr, NOT_CANONICAL) + "vmmcall", intercept=["msr"])

    assert good.run().reached("end")
    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["write"])
    assert l1.rdmsr(msr).reads(before.value)


@clause("advisories.canonical.base_written_fsgsbase")
@cases("insn", ["wrfsbase", "wrgsbase"])
def test_wrfsbase_of_an_address_that_is_not_canonical(l1, insn):
    guest = l1.guest(f"at: {insn} rbx\nvmmcall", regs={"rbx": NOT_CANONICAL})
    guest.vmcb["cr4"] |= 1 << 16  # FSGSBASE

    assert guest.run().matches(code=VMEXIT.EXCP_GP, info1=0, rip=guest["at"])


@clause("advisories.canonical.base_written")
@cases("msr", {name: BASES[name] for name in ("fs_base", "lstar")})
def test_l1_itself_cannot_write_it(l1, msr):
    before = l1.rdmsr(msr)

    assert l1.wrmsr(msr, NOT_CANONICAL).faults(GP, 0)
    assert l1.rdmsr(msr).reads(before.value)
