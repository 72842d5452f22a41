"""A guest around one intercepted instruction, and what nRIP must hold when that exits."""

from dataclasses import dataclass, field

from harness import unwritten
from harness.judge.cases import say
from harness.svm.intercepts import intercept_exit_code
from suites.lib.intercepting import with_tables


@dataclass(frozen=True)
class Insn:
    """An instruction and the intercept that catches it. `needs`: what CPUID must offer besides, as in a clause."""

    code: str
    intercept: str
    mode: str = "long64"
    needs: str = ""
    cpl: int = 0
    vmcb: dict = field(default_factory=dict)
    regs: dict = field(default_factory=dict)

    @property
    def exitcode(self):
        """EXITCODE of its exit."""
        return intercept_exit_code(self.intercept)


def rows(intercept, *codes, mode="long64", **more):
    """Cases of one intercept by their ids, `INSTRUCTION[-MODE][-cplN]`; the codes are text."""
    tail = ("" if mode == "long64" else f"-{mode}") + (f"-cpl{more['cpl']}" if more.get("cpl") else "")
    return {say(code) + tail: Insn(code, intercept, mode, **more) for code in codes}


def raw(text):
    """Bytes in hexadecimal as code for the assembler, which knows many encodings in one form only."""
    return ".byte " + ", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(text))


def around(l1, insn, **more):
    """The guest: the instruction between `start` and `next`. RBX, RAX and the permission maps point to pages.

    It has no IDT, so that INT3 or INTn that is not caught goes nowhere.
    """
    if insn.needs:
        l1.need(*insn.needs.split())
    maps, page = l1.scratch(5), l1.scratch(1)
    operand = 0x4000 if insn.mode == "real16" else page
    guest = l1.guest(
        f"nop\nstart: {insn.code}\nnext: vmmcall",
        mode=insn.mode,
        cpl=insn.cpl,
        intercept=[insn.intercept],
        vmcb={"rax": page, "idtr.limit": 0, "iopm_base_pa": maps, "msrpm_base_pa": maps + 0x3000} | insn.vmcb,
        regs={"rbx": operand, "rcx": 0} | insn.regs,
        **more,
    )
    guest.write(maps, b"\xff" * 0x5000)
    if insn.intercept in ("lldt", "ltr"):
        with_tables(l1, guest)
    return guest


def nrip(l1, value):
    """`value` where NRIPS is offered, else 0C8h is not written."""
    return l1.either("NRIPS", offered=value, absent=unwritten)


def saves_next(l1, guest, insn, **more):
    """The comparison that most tests make: the exit at the instruction's first byte, nRIP behind its last one."""
    return guest.run().matches(code=insn.exitcode, rip=guest["start"], nrip=nrip(l1, guest["next"]), **more)
