"""rAX, the operand of VMRUN, VMLOAD and VMSAVE: a physical address, page aligned, below MAXPHYADDR.

Hardware raises #GP(0) in the host for any of rAX[11:0] and for an address that the processor cannot form, before it
reads a byte, and takes as much of RAX as the effective address size says (vol 3, APM2 15.5.1). An L0 that maps the
page itself easily drops the low bits, or relies on a hardware check that knows the host's MAXPHYADDR and not L1's, or
forgets that a 67h prefix cuts RAX to EAX.
"""

import pytest

from harness import VMEXIT, clause

INSTRUCTIONS = ["vmrun", "vmload", "vmsave"]
PATTERN = 0x5A
GARBAGE = 0xDEAD_BEEF << 32

# Distances above MAXPHYADDR, and absolute bits, that the address must not have.
BEYOND = ["maxphyaddr", "maxphyaddr+1", "maxphyaddr+3", "bit52", "bit53", "bit62", "bit63", "all-above"]


def too_high(l1, which, page):
    """`page` with bits at or above MAXPHYADDR."""
    limit = l1.cpuid.maxphyaddr
    if which == "all-above":
        return page | (1 << 64) - (1 << limit)
    bit = int(which[3:]) if which.startswith("bit") else limit + int(which.partition("+")[2] or 0)
    if bit < limit:
        pytest.skip(f"bit {bit} is an address bit: CPUID Fn8000_0008 EAX[7:0] is {limit}")
    return page | 1 << bit


def placed(l1, code="end: vmmcall"):
    """A guest that lies in memory as before its first run, and is known to run."""
    guest = l1.guest(code)
    exit = guest.run()
    assert exit.ran
    l1.write(guest.vmcb_pa, bytes(exit.before.data))
    return guest


@clause("core.preconditions.rax_alignment")
@pytest.mark.parametrize("bit", range(12), ids=lambda bit: f"bit{bit}")
@pytest.mark.parametrize("insn", INSTRUCTIONS)
def test_unaligned_operand(l1, insn, bit):
    """Each low bit alone is enough, and the page is not touched."""
    guest = placed(l1)
    before = l1.read(guest.vmcb_pa, 0x2000)

    result = l1.code(f"insn: {insn}", {"rax": guest.vmcb_pa | 1 << bit})

    assert result.faults("#GP", 0, at="insn")
    assert l1.expect("the VMCB and the page behind it are as before", l1.read(guest.vmcb_pa, 0x2000) == before, True)


@clause("core.preconditions.rax_maxphyaddr")
@pytest.mark.parametrize("which", BEYOND)
@pytest.mark.parametrize("insn", INSTRUCTIONS)
def test_operand_beyond_maxphyaddr(l1, insn, which):
    """Its low bits name a good VMCB, so that an L0 that cuts the address off would run."""
    guest = placed(l1)
    before = l1.read(guest.vmcb_pa, 0x1000)

    result = l1.code(f"insn: {insn}", {"rax": too_high(l1, which, guest.vmcb_pa)})

    assert result.faults("#GP", 0, at="insn")
    assert l1.expect("the VMCB is as before", l1.read(guest.vmcb_pa, 0x1000) == before, True)


@clause("core.preconditions.rax_alignment", "core.preconditions.rax_maxphyaddr")
@pytest.mark.parametrize("page", ["first", "last"])
@pytest.mark.parametrize("insn", ["vmload", "vmsave"])
def test_good_operand(l1, insn, page):
    """The legal neighbour: any page of memory will do for VMLOAD and VMSAVE, a VMCB or not."""
    address = l1.scratch(4) + (0x3000 if page == "last" else 0)

    assert l1.code(f"mov rax, r8\nvmsave\n{insn}", {"r8": address}).returned


@clause("core.preconditions.rax_without_memory")
@pytest.mark.dangerous
@pytest.mark.dirties("an SVM instruction was run on an address without memory")
@pytest.mark.parametrize("address", ["below-4g", "last-page"])
@pytest.mark.parametrize("insn", ["vmrun", "vmsave", "vmload"])
def test_operand_without_memory(l1, insn, address):
    """VMRUN may fault, exit or read ones; whatever it does, L1 answers afterwards."""
    pa = 0xF800_0000 if address == "below-4g" else (1 << l1.cpuid.maxphyaddr) - 0x1000

    l1.code(f"mov rax, r9\nvmsave\nmov rax, r8\n{insn}\nmov rax, r9\nvmload", {"r8": pa, "r9": l1.scratch()})

    assert l1.code("mov ebx, 0x600D").returned


@clause("core.preconditions.rax_address_size")
def test_address_size_prefix_vmsave(l1):
    """VMSAVE with 67h stores at EAX; without it the same RAX is no address at all."""
    page, plain = l1.scratch(), l1.scratch()
    l1.fill(page, 0x1000, PATTERN)
    l1.fill(plain, 0x1000, PATTERN)

    assert l1.code("mov rax, r8\nvmsave", {"r8": plain}).returned
    assert l1.code("insn: vmsave", {"rax": GARBAGE | page}).faults("#GP", 0, at="insn")
    assert l1.code("addr32 vmsave", {"rax": GARBAGE | page}).returned
    same = l1.read(page, 0x1000) == l1.read(plain, 0x1000)
    assert l1.expect("VMSAVE with 67h stored the same bytes at EAX", same, True)


@clause("core.preconditions.rax_address_size")
def test_address_size_prefix_vmload(l1):
    """VMLOAD with 67h loads from EAX: STAR shows whether it did."""
    own, page = l1.scratch(), l1.scratch()
    star = 0x0123_4567_89AB_CDEF
    code = """
        mov rax, r8
        vmsave
        mov rsi, r8
        mov rdi, r9
        mov ecx, 512
        rep movsq
        mov [r9 + 0x600], r11
        mov rax, r10
        addr32 vmload
        mov ecx, 0xC0000081
        rdmsr
        mov ebx, eax
        mov ebp, edx
        mov rax, r8
        vmload
    """

    result = l1.code(code, {"r8": own, "r9": page, "r10": GARBAGE | page, "r11": star})

    assert result.returned
    assert l1.expect("STAR after VMLOAD with 67h", result.reg("rbp") << 32 | result.reg("rbx"), star)


@clause("core.preconditions.rax_address_size")
def test_address_size_prefix_vmrun(l1):
    """VMRUN with 67h runs the VMCB at EAX, and L1 gets the whole of RAX back."""
    guest = placed(l1)
    rax = GARBAGE | guest.vmcb_pa

    result = l1.code("addr32 vmrun\nmov rbx, rax", {"rax": rax})
    code = int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")

    assert result.returned
    assert l1.expect("EXITCODE[31:0]", code, VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("RAX after #VMEXIT", result.reg("rbx"), rax)


@clause("core.preconditions.vmrun_resumes_behind")
@pytest.mark.parametrize(
    "prefix",
    [[], [0x40], [0x48], [0x67], [0x2E], [0x3E], [0x26], [0x36], [0x67, 0x48], [0x2E, 0x67, 0x40]],
    ids=lambda prefix: "none" if not prefix else "".join(f"{byte:02x}" for byte in prefix),
)
def test_vmrun_resumes_behind(l1, prefix):
    """Prefixes that change nothing count for the length. The code behind VMRUN shows a wrong RIP in R12."""
    guest = placed(l1)
    text = ", ".join(f"{byte:#x}" for byte in [*prefix, 0x0F, 0x01, 0xD8])

    result = l1.code(f".byte {text}\nadd r12, 1\nadd r12, 0x100\nmov ebx, 0x600D", {"rax": guest.vmcb_pa, "r12": 0})
    code = int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")

    assert result.returned
    assert l1.expect("EXITCODE[31:0]", code, VMEXIT.VMMCALL, width_bytes=4)
    assert l1.expect("R12 behind VMRUN", result.reg("r12"), 0x101)
    assert l1.expect("RBX behind VMRUN", result.reg("rbx"), 0x600D)
