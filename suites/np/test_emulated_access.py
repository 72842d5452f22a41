"""Nested page faults of accesses that an L0 may have to emulate.

String instructions, port strings, stack and far transfers, read-modify-writes: whatever the instruction, an access that
the nested tables do not allow exits with 400h at the instruction, which has done nothing. EXITINFO1 bit 32 says that it
was the final address, bit 33 that it was a page of L2's own tables, and EXITINFO2 which (APM2 15.25.6). L2's registers
and memory are as before, and once L1 has mended the entry the instruction runs as if nothing had been.
An L0 that carries out such an instruction for L2 walks L1's tables in software, and a second time: it mixes up the two
bits, reports L2's #PF instead, leaves RSI or RSP moved, or writes through a page that L1 made read-only.
"""

from dataclasses import dataclass, field

from harness import VMEXIT, any_of, cases, clause, masked, unchanged
from harness.svm import npf_info
from suites.lib.emulated_access import ACCESSES, AT, OFFSET, Access, Operand, P, U, W
from suites.lib.event_tables import CODE0, DATA0, with_handlers

OPEN = P | W | U
CD = 1 << 30
PAGE = ~0xFFF
PORT = 0x80
TABLE_ABSENT, TABLE_READ_ONLY = 0x2_0000_0006, 0x2_0000_0007


@dataclass(frozen=True)
class Case:
    """An access. `either`: it reads and writes, so that a missing page may be reported as either.

    `rsp` is where RSP stands, from the operand's place on, where the operand is on the stack; `words` are what lies at
    the operand, "done" being the address behind the instruction.
    """

    access: Access
    either: bool = False
    rsp: int | None = None
    words: list[object] = field(default_factory=list)


READ_AND_WRITE = ("add", "xchg", "lock_xadd", "lock_cmpxchg", "lock_cmpxchg16b")
OWN = {name: Case(access, name in READ_AND_WRITE, None, ["done"]) for name, access in ACCESSES.items()}
MORE = {
    "outsb": Case(Access("outsb", from_rsi=True)),
    "rep_outsb": Case(Access("rep outsb", from_rsi=True)),
    "insb": Case(Access("insb", writes=True, to_rdi=True)),
    "rep_insb": Case(Access("rep insb", writes=True, to_rdi=True)),
    "cmpxchg": Case(Access("cmpxchg [rbx], rcx", writes=True), either=True),
    "bts": Case(Access("bts [rbx], rcx", writes=True), either=True),
    "not": Case(Access("not qword ptr [rbx]", writes=True), either=True),
    "xlat": Case(Access("xlatb")),
    "sgdt": Case(Access("sgdt [rbx]", writes=True)),
    "push": Case(Access("push rax", writes=True), rsp=8),
    "pushf": Case(Access("pushfq", writes=True), rsp=8),
    "call_near": Case(Access("call done", writes=True), rsp=8),
    "enter": Case(Access("enter 16, 0", writes=True), rsp=8),
    "pop": Case(Access("pop rax"), rsp=0),
    "ret": Case(Access("ret"), rsp=0, words=["done"]),
    "retf": Case(Access("retfq"), rsp=0, words=["done", CODE0]),
    "iret": Case(Access("iretq"), rsp=0, words=["done", CODE0, 2, AT + OFFSET, DATA0]),
    "far_jmp": Case(Access(".byte 0xff, 0x2b"), words=["done", CODE0]),
    "far_call": Case(Access(".byte 0xff, 0x1b"), words=["done", CODE0]),
}
ALL = OWN | MORE
FAR = ("far_jmp", "far_call")  # m16:32: the selector lies 4 bytes on
WRITERS = [name for name, each in ALL.items() if each.access.writes]
THROUGH_TABLES = [
    "outsb", "insb", "rep_outsb", "movs_from", "movs_to", "stos", "lock_cmpxchg", "xchg", "bt", "push", "pop", "ret",
    "call", "iret", "far_jmp", "fxsave",
]  # fmt: skip
DEEP = ["outsb", "insb", "movs_to", "push"]


GIVEN = 1  # RAX; RCX is 4
FILL = 0xA5A5_A5A5_A5A5_A5A5
# What eight bytes at the operand are after the instruction was executed once.
AFTER = {
    "mov_store": lambda _: GIVEN,
    "xchg": lambda _: GIVEN,
    "stos": lambda _: GIVEN,
    "push": lambda _: GIVEN,
    "add": lambda before: before + GIVEN,
    "lock_xadd": lambda before: before + GIVEN,
    "bts": lambda before: before | 1 << 4,
    "not": lambda before: ~before & (1 << 64) - 1,
    "rep_stos": lambda before: before & ~0xFFFF_FFFF | 0x0101_0101,
}


def _operand(l1, name, **options):
    """The guest, with what lies at the operand, and RSP where the access wants it."""
    case = ALL[name]
    operand = Operand(l1, case.access, **options)
    guest = operand.guest
    pages = (l1.scratch(1), l1.scratch(1))
    with_handlers(l1, guest, guest["done"], pages=pages)
    width = 4 if name in FAR else 8
    words = [guest["done"] if word == "done" else word for word in case.words]
    guest.write(
        operand.page + OFFSET, b"".join(word.to_bytes(width, "little") for word in words) or FILL.to_bytes(8, "little")
    )
    guest.vmcb["rax"] = GIVEN
    guest.regs["rdx"] = PORT if name.startswith(("outs", "ins", "rep_outs", "rep_ins")) else 0
    if case.rsp is not None:
        guest.vmcb["rsp"] = AT + OFFSET + case.rsp
    return operand


SAME = dict.fromkeys(("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"), unchanged)


def _faults(operand, exit, where, info1):
    """Exit 400h for that page's address; L2 stands where it stood."""
    same = {"rip": operand.guest["probe"], "rax": unchanged, "rsp": unchanged, "regs": SAME}
    info2 = masked(operand.gpa(where) & PAGE, PAGE)
    return exit.matches(code=VMEXIT.NPF, info1=info1, info2=info2, intinfo=masked(0, 1 << 31), **same)


def _final(name, *, present):
    """EXITINFO1 for the final address."""
    case = ALL[name]
    if case.either and not present:
        return any_of(npf_info(present=False, write=False), npf_info(present=False, write=True))
    return npf_info(present=present, write=case.access.writes)


def _absent(l1, name, where, info1, **options):
    """One run with the entry away, and one after L1 has put it back, without a flush."""
    operand = _operand(l1, name, **options)
    operand.set_nested(where, 0)
    gpa = operand.gpa(where)

    exit = operand.guest.run(read={"page": (operand.page + OFFSET, 8)})

    assert _faults(operand, exit, where, info1)
    before = int.from_bytes(exit.memory["page"], "little")
    l1.write(operand.nested_entry(where), (gpa & PAGE | OPEN).to_bytes(8, "little"))
    again = operand.guest.run(read={"page": (operand.page + OFFSET, 8)})
    assert again.reached("done")
    if name in AFTER:
        assert l1.expect("the operand", int.from_bytes(again.memory["page"], "little"), AFTER[name](before))


@clause("np.fault.emulated")
@cases("name", list(ALL))
def test_operand_is_absent(l1, name):
    """Bit 32; then L1 makes the entry present, and the instruction is executed once."""
    _absent(l1, name, "page", _final(name, present=False))


@clause("np.fault.emulated")
@cases("name", WRITERS)
def test_operand_is_read_only(l1, name):
    """Bit 32 with P and R/W; the page is as it was."""
    operand = _operand(l1, name)
    operand.set_nested("page", P | U)

    exit = operand.guest.run(read={"page": (operand.page + OFFSET, 8)})

    assert _faults(operand, exit, "page", npf_info(present=True, write=True))
    words = [operand.guest["done"] if word == "done" else word for word in ALL[name].words]
    expected = words[0] if words else FILL
    assert l1.expect("the operand", int.from_bytes(exit.memory["page"], "little"), expected)


@clause("np.fault.emulated")
@cases("name", [name for name in ALL if name not in WRITERS])
def test_operand_that_is_only_read(l1, name):
    """The neighbour: a read-only page is good enough."""
    operand = _operand(l1, name)
    operand.set_nested("page", P | U)

    assert operand.guest.run().reached("done")


@clause("np.fault.emulated_walk")
@cases("name", THROUGH_TABLES)
def test_table_is_absent(l1, name):
    """The page that holds L2's last entry: bit 33, and a write, whatever the access."""
    _absent(l1, name, "pt", TABLE_ABSENT)


@clause("np.fault.emulated_walk")
@cases("name", DEEP)
@cases("where", ["pdpt", "pd"])
def test_upper_table_is_absent(l1, name, where):
    _absent(l1, name, where, TABLE_ABSENT)


@clause("np.fault.emulated_walk")
@cases("name", THROUGH_TABLES)
def test_table_is_read_only(l1, name):
    """A walk writes: bit 33 with P and R/W."""
    operand = _operand(l1, name)
    operand.set_nested("pt", P | U)

    exit = operand.guest.run()

    assert _faults(operand, exit, "pt", TABLE_READ_ONLY)


@clause("np.fault.emulated")
@cases("name", ["mov_load", "mov_store", "movs_from", "movs_to", "insb", "outsb", "push", "far_jmp"])
def test_operand_is_absent_with_caches_off(l1, name):
    """CR0.CD=1 in L2, for which some L0s emulate more than otherwise."""
    operand = _operand(l1, name)
    operand.guest.vmcb["cr0"] |= CD
    operand.set_nested("page", 0)

    exit = operand.guest.run()

    assert _faults(operand, exit, "page", _final(name, present=False))
