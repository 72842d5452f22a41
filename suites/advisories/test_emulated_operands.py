"""XSA-191, XSA-195 and XSA-200: the operands of an instruction that L0 emulates.

All three are Xen's emulator, up to 4.8, and do not concern nesting; an L2 reaches the same code of any L0 by an
instruction that has to be emulated for it (see emulated.py).

XSA-191 (CVE-2016-9386): a segment that is not usable was taken for one that is, where hardware raises #GP(0), or #SS(0)
for SS. XSA-195 (CVE-2016-9383): the bit offset of BT, BTS, BTR and BTC, 64 bits with a sign, was cut, so that memory at
another address was read or written. XSA-200 (CVE-2016-9932): CMPXCHG8B with an operand-size prefix handed L2 bytes of
Xen's stack; hardware ignores the prefix.
"""

from harness import RFLAGS, VMEXIT, cases, clause
from suites.advisories.emulated import emulated

READ_ONLY, NOT_PRESENT, EXECUTE_ONLY = 0xC91, 0xC13, 0xC99
MASK = (1 << 64) - 1
WORD = 0x40  # of the page: the byte at which the eight bytes of the operand begin


@clause("advisories.emulator.segments")
@cases(
    "code, fields, exitcode",
    {
        "ds_unusable": ("mov eax, [ebx]", {"ds.attrib": NOT_PRESENT, "ds.selector": 0}, VMEXIT.EXCP_GP),
        "ds_unusable_write": ("mov [ebx], eax", {"ds.attrib": NOT_PRESENT, "ds.selector": 0}, VMEXIT.EXCP_GP),
        "es_unusable": ("stosd", {"es.attrib": NOT_PRESENT, "es.selector": 0}, VMEXIT.EXCP_GP),
        "ss_unusable": ("push eax", {"ss.attrib": NOT_PRESENT, "ss.selector": 0}, VMEXIT.EXCP_SS),
        "ds_read_only": ("mov [ebx], eax", {"ds.attrib": READ_ONLY}, VMEXIT.EXCP_GP),
        "ds_limit": ("mov eax, [ebx]", {"ds.limit": 0xFFF}, VMEXIT.EXCP_GP),
        "cs_not_readable": ("mov eax, cs:[ebx]", {"cs.attrib": EXECUTE_ONLY}, VMEXIT.EXCP_GP),
        "cs_write": ("mov cs:[ebx], eax", {}, VMEXIT.EXCP_GP),
    },
)
def test_segment_that_forbids_the_access(l1, code, fields, exitcode):
    """In compatibility mode, where segments count."""
    page = l1.scratch(1)
    guest = emulated(l1, f"start: {code}\nvmmcall", mode="compat32", regs={"rbx": page, "rdi": page}, vmcb=fields)

    assert guest.run().matches(code=exitcode, info1=0, rip=guest["start"])


OFFSETS = {"-1": -1, "2^34": 1 << 34, "-2^34": -(1 << 34), "2^38+9": (1 << 38) + 9}


@clause("advisories.emulator.bit_offset")
@cases("offset", OFFSETS)
@cases("insn", ["bts", "lock bts"])
def test_bit_offset_of_64_bits(l1, insn, offset):
    """RBX is chosen so that the bit lies in the test's own page."""
    page = l1.scratch(1)
    base = page + WORD - (offset >> 6) * 8 & MASK
    guest = emulated(l1, f"start: {insn} qword ptr [rbx], rcx\nend: vmmcall", regs={"rbx": base, "rcx": offset & MASK})

    exit = guest.run(read={"page": (page, 0x80)})

    wanted = (1 << (offset & 63)).to_bytes(8, "little")
    assert exit.reached("end")
    got = exit.memory["page"]
    assert l1.expect("the operand's eight bytes", int.from_bytes(got[WORD : WORD + 8]), int.from_bytes(wanted))
    assert l1.expect("bytes around it that are not 0", sum(got[:WORD] + got[WORD + 8 :]), 0)


OLD, NEW = 0x1122_3344_5566_7788, 0x99AA_BBCC_DDEE_FF01
PREFIXES = {"plain": [], "66": [0x66], "lock_66": [0xF0, 0x66], "f2": [0xF2], "f3": [0xF3]}


@clause("advisories.emulator.cmpxchg8b")
@cases("equal", [True, False])
@cases("prefixes", PREFIXES)
def test_cmpxchg8b_with_a_prefix(l1, prefixes, equal):
    """Eight bytes are compared and exchanged, and the eight behind them stay. Or L2 takes #UD for the prefix."""
    page = l1.scratch(1)
    code = ", ".join(f"{byte:#x}" for byte in [*prefixes, 0x0F, 0xC7, 0x0B])  # CMPXCHG8B [RBX]
    compared = OLD if equal else OLD ^ 1 << 40
    low, high = compared & 0xFFFF_FFFF, compared >> 32
    guest = emulated(l1, f"start: .byte {code}\npushfq\npop r8\nend: vmmcall", vmcb={"rax": low})
    # RBX is the address, so its lower half is what is stored below: the page's address takes part in the new value.
    guest.regs.update({"rbx": page, "rcx": NEW >> 32, "rdx": high})
    guest.write(page, OLD.to_bytes(8, "little") + b"\x5a" * 8)

    exit = guest.run(read={"page": (page, 16)})

    refused = bool(prefixes) and exit.code == VMEXIT.EXCP_UD
    stored = NEW & ~0xFFFF_FFFF | page if equal and not refused else OLD
    if refused:
        assert exit.matches(rip=guest["start"], rax=low, regs={"rdx": high})
    else:
        assert exit.reached("end", rax=low if equal else OLD & 0xFFFF_FFFF, regs={"rdx": high if equal else OLD >> 32})
        assert l1.expect("ZF", bool(exit.regs["r8"] & RFLAGS.ZF), equal)
    assert l1.expect("the eight bytes", int.from_bytes(exit.memory["page"][:8], "little"), stored)
    assert l1.expect("those behind", int.from_bytes(exit.memory["page"][8:], "little"), 0x5A5A_5A5A_5A5A_5A5A)
