"""The instruction bytes of a data fault.

At a nested page fault, and at an intercepted #PF, of a data access the processor stores 15 bytes of L2's instruction
stream at CS:rIP, whatever the length of the instruction, with their number before them (APM2 15.8.4). L1 emulates an
access to a device with them, and need not walk L2's tables. A wrong L0 stores the bytes that its decoder happened to
have, begins behind the prefixes, forgets the base of CS, or has left those of a fault that it handled itself.
"""

import pytest

from harness import VMEXIT, any_of, clause, masked
from suites.lib.data_faults import FETCHED, KINDS, NPF_MODES, PF_MODES, faulting, first, mask, stream
from suites.lib.emulated_access import ACCESSES as EMULATED
from suites.lib.emulated_access import Operand
from suites.lib.event_tables import with_handlers
from suites.lib.nested_maps import nested_guest

OSFXSR = 1 << 9
AC, SMAP = 1 << 18, 1 << 21
CLAUSES = {"pf": "decodeassists.bytes.pf", "pf_np": "decodeassists.bytes.pf", "npf": "decodeassists.bytes.npf"}
BASE_REGISTER = {"long64": "rbx", "real16": "bx"}
ACCESSES = {
    "load": "mov al, [{b}]",
    "store": "mov [{b}], cx",
    "store_immediate": "mov dword ptr [{b} + 0x11], 0x55667788",
    "rmw": "add byte ptr [{b}], 5",
    "locked": "lock inc byte ptr [{b}]",
    "string": "rep movsb",
}


MODES = [
    *(("pf", mode) for mode in PF_MODES),
    ("pf_np", "long64"),
    ("pf_np", "pae32"),
    *(("npf", mode) for mode in NPF_MODES),
]


def case(kind, *values, id):
    """A case of that kind of fault, with its clauses."""
    return pytest.param(kind, *values, id=id, marks=pytest.mark.clause(CLAUSES[kind], "decodeassists.bytes.fifteen"))


def check(exit, guest, kind):
    """The exit of that kind at `at`, with all 15 bytes."""
    code = VMEXIT.NPF if kind == "npf" else VMEXIT.EXCP_PF

    assert exit.matches(code=code, rip=guest["at"], insn_len=FETCHED, insn_bytes=first(stream(guest)))


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize(
    ("kind", "mode"),
    [case(kind, mode, id=f"{kind}-{mode}") for kind, mode in MODES],
)
def test_every_mode(l1, kind, mode, access):
    """A real-mode guest's code lies at a base of 2_0000h."""
    insn = ACCESSES[access].format(b=BASE_REGISTER.get(mode, "ebx"))
    guest = faulting(l1, kind, f"nop\nat: {insn}\nvmmcall", mode)
    guest.regs["rcx"] = 3

    check(guest.run(), guest, kind)


SHAPES = {
    "fifteen": ".fill 13, 1, 0x3e\nmov al, [rbx]",
    "fourteen": ".fill 8, 1, 0x66\nmov word ptr [rbx + 1], 0x1122",
    "all_prefixes": ".byte 0x2e, 0x66, 0x67, 0x4e, 0x8b, 0x03\nnop",
    "rex": "mov r15, [rbx]",
    "sib_disp32": "mov rax, [rbx + rcx * 8 + 0x44]",
    "two_byte_opcode": "movzx eax, word ptr [rbx]",
    "xchg": "xchg [rbx], r9",
    "cmpxchg16b": "lock cmpxchg16b [rbx]",
    "bit_test": "lock bts qword ptr [rbx], 7",
    "push": "push qword ptr [rbx]",
    "pop": "pop qword ptr [rbx]",
    "call": "call [rbx]",
    "jump": "jmp [rbx]",
    "x87": "fld qword ptr [rbx]",
    "movups": "movups [rbx], xmm3",
    "fxsave": "fxsave [rbx + 0x40]",
    "lgdt": "lgdt [rbx]",
    "sidt": "sidt [rbx]",
    "xlat": "xlatb",
    "rep_stos": "rep stosq",
    "lods": "lodsd",
    "repne_scas": "repne scasb",
    "prefixed_string": ".byte 0x66, 0xf3, 0x2e, 0xa5",
}


@pytest.mark.parametrize(
    ("kind", "code"), [case(kind, code, id=f"{kind}-{name}") for name, code in SHAPES.items() for kind in ("pf", "npf")]
)
def test_every_kind_of_instruction(l1, kind, code):
    """From the first prefix on, and 15 whatever the length."""
    guest = faulting(l1, kind, f"nop\nat: {code}\nvmmcall")
    guest.regs |= {"rcx": 1, "r8": 0, "r9": 0, "r15": 0}
    guest.vmcb["cr4"] |= OSFXSR

    check(guest.run(), guest, kind)


IMPLICIT = {
    "push": "at: push rax",
    "pop": "at: pop rax",
    "ret": "at: ret",
    "call": "at: call at",
    "iret": "at: iretq",
    "enter": "at: enter 8, 0",
    "pushf": "at: pushfq",
}


@pytest.mark.parametrize(
    ("kind", "code"),
    [case(kind, code, id=f"{kind}-{name}") for name, code in IMPLICIT.items() for kind in ("pf", "npf")],
)
def test_stack(l1, kind, code):
    """The access is to L2's stack, and RSP is in the page that is missing."""
    guest = faulting(l1, kind, f"nop\n{code}\nvmmcall")
    guest.vmcb["rsp"] = guest.regs["rbp"] = guest.regs["rbx"]

    check(guest.run(), guest, kind)


@pytest.mark.parametrize("kind", [case(kind, id=kind) for kind in KINDS])
def test_user_code(l1, kind):
    guest = faulting(l1, kind, "nop\nat: mov [rbx + 8], r12\nvmmcall", cpl=3)

    check(guest.run(), guest, kind)


@pytest.mark.parametrize("kind", [case(kind, id=kind) for kind in KINDS])
def test_each_fault_has_its_own_bytes(l1, kind):
    """Two different instructions in a row: those of the first are gone."""
    guest = faulting(l1, kind, "first: lock add qword ptr [rbx], 0x7f\nat: mov ecx, [rbx]\nvmmcall")
    assert guest.run().matches(insn_len=FETCHED, insn_bytes=first(stream(guest, "first")))

    check(guest.resume("at"), guest, kind)


@pytest.mark.parametrize("kind", [case(kind, id=kind) for kind in KINDS if kind != "pf"])
@pytest.mark.parametrize("base", [0x1000, 0x12_3450])
def test_base_of_cs(l1, kind, base):
    """32-bit code in a segment that does not begin at 0."""
    mode = "prot32" if kind == "npf" else "pae32"
    guest = faulting(l1, kind, "nop\nat: mov [ebx], ecx\nvmmcall", mode)
    guest.vmcb.update({"cs.base": base, "rip": guest["at"] - base})

    exit = guest.run()

    code = VMEXIT.NPF if kind == "npf" else VMEXIT.EXCP_PF
    assert exit.matches(code=code, rip=guest["at"] - base, insn_len=FETCHED, insn_bytes=first(stream(guest)))


@clause("decodeassists.bytes.smap")
@pytest.mark.parametrize("cpl", [0, 3], ids=["cpl0", "cpl3"])
def test_smap(l1, cpl):
    """CPL 0 with AC set, so that the access is no #PF."""
    guest = faulting(l1, "npf", "at: mov [rbx], rax\nvmmcall", cpl=cpl)
    guest.vmcb["cr4"] |= SMAP
    guest.vmcb["rflags"] |= AC

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NPF, rip=guest["at"], insn_len=any_of(0, FETCHED))
    if exit.vmcb["insn_len"]:
        assert exit.matches(insn_bytes=first(stream(guest)))


@clause("decodeassists.bytes.table_walk")
@pytest.mark.parametrize("level", ["pdpt", "pd", "pt"])
@pytest.mark.parametrize("access", ["mov_load", "mov_store", "rep_movs_to"])
def test_walk_of_l2s_tables(l1, access, level):
    """A nested fault on a page of L2's own tables. The code has ten known bytes at least."""
    operand = Operand(l1, EMULATED[access])
    operand.set_nested(level, 0)
    guest = operand.guest

    exit = guest.run()

    assert exit.matches(code=VMEXIT.NPF, rip=guest["probe"], info1=masked(1 << 33, 3 << 32))
    assert exit.matches(insn_len=any_of(0, FETCHED))
    if exit.vmcb["insn_len"]:
        known = guest.code + b"\xcc" * 4
        assert exit.matches(insn_bytes=masked(first(known), mask(min(len(known), FETCHED))))


@clause("decodeassists.bytes.event_delivery")
@pytest.mark.parametrize("event", ["injected", "int_n"])
def test_event_delivery(l1, event):
    """The IDT's page is missing: the access is none of an instruction's own."""
    code = "at: int 0x40" if event == "int_n" else "at: nop"
    guest, nested = nested_guest(l1, f"{code}\nhandler: vmmcall\n.fill 16, 1, 0x5e")
    idt, _ = with_handlers(l1, guest, guest["handler"])
    nested.set(idt, 0)
    if event == "injected":
        guest.vmcb["eventinj"] = 1 << 31 | 0x40

    exit = guest.run()

    assert exit.matches(
        code=VMEXIT.NPF, rip=guest["at"], info2=masked(idt, ~0xFFF), exitintinfo=masked(1 << 31, 1 << 31)
    )
    count = exit.vmcb["insn_len"]
    assert l1.expect("count", count <= FETCHED, True)
    assert exit.matches(insn_bytes=masked(first(stream(guest)), mask(count)))
