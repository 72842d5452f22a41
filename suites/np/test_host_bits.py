"""What L1's own CPUID and CR4 mean for its nested tables, and operands that these tables do not translate.

Nested walks are a user's, so SMEP and SMAP of L1, which protect supervisors, have no say; PS in a third-level entry is
reserved where L1 has no 1 GiB pages (APM2 15.25.3, 15.25.5). VMLOAD and VMSAVE that L1 leaves to L2 take a physical
address of L1's (15.33.1). A wrong L0 walks with its own CR4, has larger pages than it told L1, or translates the
operand once too often, and L2 reads what was never given to it.
"""

from harness import VMEXIT, cases, clause
from harness.svm import npf_info
from harness.svm.paging import PS, P, W
from suites.lib.nested_maps import OPEN, VMMCALL_BYTES, access_code, far_guest, nested_guest

SMEP, SMAP = 1 << 20, 1 << 21
# L1 goes to tables of its own, in which all pages are a supervisor's, and sets the bits in R15.
PROTECTED = """
    mov r12, cr3
    mov r13, cr4
    mov cr3, r14
    mov rdx, r13
    or rdx, r15
    mov cr4, rdx
    vmrun
    mov cr4, r13
    mov cr3, r12
"""


def _supervisor_tables(l1):
    """An identity map of the first GiB by 2 MiB pages."""
    top, upper, directory = (l1.scratch(1) for _ in range(3))
    l1.write(top, (upper | P | W).to_bytes(8, "little"))
    l1.write(upper, (directory | P | W).to_bytes(8, "little"))
    l1.write(directory, b"".join((n << 21 | P | W | PS).to_bytes(8, "little") for n in range(512)))
    return top


@clause("np.attributes.host_smep_smap")
@cases("bits", {"smep": SMEP, "smap": SMAP, "both": SMEP | SMAP})
@cases("access", ["read", "write", "fetch"])
def test_smep_and_smap_of_l1(l1, access, bits):
    """L2 is at CPL 0, and its nested pages are all a user's, as they must be."""
    page = l1.scratch(1)
    guest, _ = nested_guest(l1, access_code(access), regs={"rbx": page})
    guest.write(page, VMMCALL_BYTES)

    exit = guest.run_in(PROTECTED, {"r14": _supervisor_tables(l1), "r15": bits})

    assert exit.l1.returned
    assert exit.matches(code=VMEXIT.VMMCALL, rip=page if access == "fetch" else guest["done"])


@clause("np.fault.page_1gb_absent")
@cases("access", ["read", "write"])
def test_1_gib_page_where_there_is_none(l1, access):
    guest, _, nested_walk, _, _ = far_guest(l1, access)
    nested_walk.set(3, OPEN | PS)

    info = npf_info(present=True, write=access == "write", rsv=True)
    assert guest.run().matches(code=VMEXIT.NPF, rip=guest["probe"], info1=info)


OWN, OTHER, GIVEN = 0x1111_2222, 0x3333_4444, 0x5555_6666  # values of KernelGSBase
FIELD, MSR = 0x620, 0xC000_0102
# L1 saves good state to both pages and puts a value of its own into each.
SETUP = "".join(
    f"mov rax, {page}\nvmsave\nmov dword ptr [rax + {FIELD:#x}], {value:#x}\n"
    for page, value in (("r8", OWN), ("r9", OTHER))
)
READ = f"mov ecx, {MSR:#x}\nrdmsr"
WRITE = f"mov rbx, rax\nmov ecx, {MSR:#x}\nmov eax, {GIVEN:#x}\nxor edx, edx\nwrmsr\nmov rax, rbx"


def _remapped(l1, code):
    """RAX is a page that the nested tables turn to another one. Gives the guest and both pages."""
    page, other = l1.scratch(1), l1.scratch(1)
    guest, nested = nested_guest(l1, code, vmcb={"rax": page}, no_intercept=["vmload", "vmsave"])
    nested.set(page, other | OPEN)
    guest.setup(SETUP, {"r8": page, "r9": other})
    guest.teardown(f"mov ecx, {MSR:#x}\nxor eax, eax\nxor edx, edx\nwrmsr")
    return guest, page, other


@clause("np.modes.svm_operands")
def test_vmload_in_l2(l1):
    """L2 reads back what it has loaded."""
    guest, *_ = _remapped(l1, f"vmload\n{READ}\nend: vmmcall")

    assert guest.run().reached("end", rax=OWN)


@clause("np.modes.svm_operands")
def test_vmsave_in_l2(l1):
    """One page has what L2 saved, and the one to which the nested tables lead is as it was."""
    guest, page, other = _remapped(l1, f"{WRITE}\nvmsave\nend: vmmcall")

    exit = guest.run(read={"own": (page + FIELD, 4), "other": (other + FIELD, 4)})

    own, there = (int.from_bytes(exit.memory[name], "little") for name in ("own", "other"))
    assert exit.reached("end")
    assert l1.expect("at L1's physical address", own, GIVEN, width_bytes=4)
    assert l1.expect("where the nested tables lead", there, OTHER, width_bytes=4)
