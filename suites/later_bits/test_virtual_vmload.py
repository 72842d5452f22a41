"""Virtual VMLOAD and VMSAVE (CPUID Fn8000_000A EDX bit 15).

With 0B8h bit 1, nested paging and a 64-bit host, VMLOAD and VMSAVE of L2 take a guest physical address, and reach L1's
memory through the nested tables only (APM2 15.33.1). Where the feature is not offered the bit has no effect, and the
operand is a physical address of L1's. An L0 that mixes up the two lets L2 read and write memory that was never its own
(CVE-2021-3656).
"""

import pytest

from harness import VMEXIT, cases, clause
from harness.svm import npf_info
from suites.lib.nested_maps import P, U, W, nested_guest

OWN, OTHER, GIVEN = 0x1111_2222, 0x3333_4444, 0x5555_6666  # values of KernelGSBase
FIELD = 0x620
# L1 saves its own state to both pages, so that what L2 loads is good, and puts a value of its own into each.
SETUP = f"""
    mov rax, r8
    vmsave
    mov dword ptr [rax + {FIELD:#x}], {OWN:#x}
    mov rax, r9
    vmsave
    mov dword ptr [rax + {FIELD:#x}], {OTHER:#x}
"""
READ = "mov ecx, 0xc0000102\nrdmsr"
WRITE = f"mov rbx, rax\nmov ecx, 0xc0000102\nmov eax, {GIVEN:#x}\nxor edx, edx\nwrmsr\nmov rax, rbx"
CLEAR = "mov ecx, 0xc0000102\nxor eax, eax\nxor edx, edx\nwrmsr"


def _guest(l1, code, *, np=True, **options):
    """RAX is a guest physical page, which the nested tables turn to the other page. Gives guest, map and both pages."""
    page, other = l1.scratch(1), l1.scratch(1)
    vmcb = {"virt_vmload_vmsave": 1, "rax": page} | options.pop("vmcb", {})
    if np:
        guest, nested = nested_guest(l1, code, vmcb=vmcb, **options)
        nested.set(page, other | P | W | U)
    else:
        guest, nested = l1.guest(code, vmcb=vmcb, **options), None
    guest.setup(SETUP, {"r8": page, "r9": other})
    guest.teardown(CLEAR)
    return guest, nested, page, other


@clause("later_bits.vmload.guest_physical", "later_bits.vmload.absent")
def test_vmload(l1):
    """L2 reads back what it has loaded, in EAX."""
    guest, *_ = _guest(l1, f"vmload\n{READ}\nend: vmmcall")

    exit = guest.run()

    if l1.cpuid.has("VmsaveVirt"):
        assert exit.reached("end", rax=OTHER)
    else:
        assert exit.is_invalid or exit.reached("end", rax=OWN)


@clause("later_bits.vmload.guest_physical", "later_bits.vmload.absent")
def test_vmsave(l1):
    """What L2 has saved lies in one page, and the other one is as it was."""
    guest, _, page, other = _guest(l1, f"{WRITE}\nvmsave\nend: vmmcall")

    exit = guest.run(read={"own": (page + FIELD, 4), "other": (other + FIELD, 4)})

    virtual = l1.cpuid.has("VmsaveVirt")
    assert exit.reached("end") or (not virtual and exit.is_invalid)
    if exit.code == VMEXIT.VMMCALL:
        own, there = (int.from_bytes(exit.memory[name], "little") for name in ("own", "other"))
        assert l1.expect("at L1's physical address", own, OWN if virtual else GIVEN)
        assert l1.expect("where the nested tables lead", there, GIVEN if virtual else OTHER)


@clause("later_bits.vmload.intercept")
@pytest.mark.parametrize("insn", ["vmload", "vmsave"])
def test_intercept_comes_first(l1, insn):
    guest, *_ = _guest(l1, f"nop\nstart: {insn}\nvmmcall", intercept=[insn])

    assert guest.run().matches(code=VMEXIT[insn.upper()], rip=guest["start"])


@clause("later_bits.vmload.without_nested_paging")
@pytest.mark.parametrize("insn", ["vmload", "vmsave"])
def test_without_nested_paging(l1, insn):
    """The exit comes though the intercept is clear."""
    guest, *_ = _guest(l1, f"nop\nstart: {insn}\nvmmcall", np=False)

    assert guest.run().matches(code=VMEXIT[insn.upper()], rip=guest["start"])


@clause("later_bits.vmload.nested_fault")
@cases(
    "insn, flags",
    {"vmload_absent": ("vmload", 0), "vmsave_absent": ("vmsave", 0), "vmsave_read_only": ("vmsave", P | U)},
)
def test_nested_fault(l1, insn, flags):
    guest, nested, page, _ = _guest(l1, f"nop\nstart: {insn}\nvmmcall")
    nested.set(page, page | flags if flags else 0)

    exit = guest.run()

    info1 = npf_info(present=bool(flags), write=insn == "vmsave")
    assert exit.matches(code=VMEXIT.NPF, rip=guest["start"], info1=info1)
