"""Accesses that an L0 may have to emulate: string instructions, read-modify-writes and others that touch memory.

L2 makes one access to a page that it reaches through tables of its own. The page and each of the table pages have a
nested entry of their own, so a test may take any of them away: from the operand, or from the walk that leads to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness import L1, Guest
from harness.svm.paging import LongTables, P, U, W
from suites.lib.nested_maps import PAGES, Map

AT = 0x100_C012_3000  # the page's linear address; no index of its walk is 0
OFFSET = 0x340
LOW_BYTES = 0x200_0000  # what the nested map has by 4 KiB pages: L2's code, stack and tables
OSFXSR = 1 << 9
_TABLE_PAGES = 7  # one for the top, three for the low memory and the rest, three for AT
LEVELS = {"pdpt": 1, "pd": 2, "pt": 3}  # the top table is on the way to L2's code, too


@dataclass(frozen=True)
class Access:
    """An instruction whose operand is at RBX, RSI or RDI; the other operand of a string move is on L2's stack."""

    code: str
    writes: bool = False
    from_rsi: bool = False
    to_rdi: bool = False


ACCESSES = {
    "mov_load": Access("mov rax, [rbx]"),
    "mov_store": Access("mov [rbx], rax", writes=True),
    "movzx": Access("movzx eax, byte ptr [rbx]"),
    "movups_load": Access("movups xmm0, [rbx]"),
    "movups_store": Access("movups [rbx], xmm0", writes=True),
    "fxsave": Access("fxsave [rbx]", writes=True),
    "bt": Access("bt [rbx], rcx"),
    "add": Access("add [rbx], rax", writes=True),
    "xchg": Access("xchg [rbx], rax", writes=True),
    "lock_xadd": Access("lock xadd [rbx], rax", writes=True),
    "lock_cmpxchg": Access("lock cmpxchg [rbx], rcx", writes=True),
    "lock_cmpxchg16b": Access("lock cmpxchg16b [rbx]", writes=True),
    "push_from": Access("push qword ptr [rbx]"),
    "pop_to": Access("pop qword ptr [rbx]", writes=True),
    "call": Access("call qword ptr [rbx]"),
    "lods": Access("lodsq", from_rsi=True),
    "stos": Access("stosq", writes=True, to_rdi=True),
    "scas": Access("scasb", to_rdi=True),
    "cmps": Access("cmpsb", from_rsi=True),
    "movs_from": Access("movsq", from_rsi=True),
    "movs_to": Access("movsq", writes=True, to_rdi=True),
    "rep_movs_from": Access("rep movsb", from_rsi=True),
    "rep_movs_to": Access("rep movsb", writes=True, to_rdi=True),
    "rep_stos": Access("rep stosb", writes=True, to_rdi=True),
}


class Operand:
    """The guest, its tables and the nested ones. `where` is "page" (the operand's) or a level of L2's own tables."""

    def __init__(self, l1: L1, access: Access, **options: object) -> None:
        self.page = l1.scratch(1)
        own = l1.scratch(_TABLE_PAGES)
        code = f"probe: {access.code}\ndone: vmmcall"
        self.guest: Guest = l1.guest(code, np=True, **options)  # type: ignore[arg-type]
        self.nested = Map(self.guest, l1.scratch(PAGES))
        self.tables = LongTables(own, own + _TABLE_PAGES * 4096)
        self.tables.identity(LOW_BYTES)
        self.tables.map(AT, self.page)
        for address, data in self.tables.pages().items():
            self.guest.write(address, data)
        self.guest.write(self.page + OFFSET, self.guest["done"].to_bytes(8, "little"))  # for CALL
        self.guest.vmcb.update({"cr3": own, "n_cr3": self.nested.base, "tlb_control": 1})
        self.guest.vmcb["cr4"] |= OSFXSR
        elsewhere = self.guest.stack_top - 0x200
        given = {"rcx": 4, "rbx": AT + OFFSET, "rdx": 0}
        given |= {"rsi": AT + OFFSET if access.from_rsi else elsewhere}
        given |= {"rdi": AT + OFFSET if access.to_rdi else elsewhere}
        self.guest.regs.update(given)

    def gpa(self, where: str) -> int:
        """The guest-physical address that the access, or its walk, reaches there."""
        if where == "page":
            return self.page + OFFSET
        return self.tables.walk_addresses(AT)[LEVELS[where]]

    def nested_entry(self, where: str) -> int:
        """Where the nested entry of that page lies."""
        return self.nested.entry(self.gpa(where) & ~0xFFF)

    def set_nested(self, where: str, flags: int) -> None:
        """Has that page's nested entry written with these flags before the first run; 0 takes it away."""
        page = self.gpa(where) & ~0xFFF
        self.nested.set(page, page | flags if flags else 0)


__all__ = ["ACCESSES", "AT", "LEVELS", "OFFSET", "Access", "Operand", "P", "U", "W"]
