"""For each field behind a clean bit: L2 code that shows which value VMRUN has loaded.

A probe runs the code with the old value, lets L1 change the field, and runs the same code again. What L2 finds is one
number: a register, or the exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import CR0, CR4, EFER, L1, VMEXIT, Exit, Guest
from harness.svm import MSR, Clean
from suites.lib.nested_maps import OPEN, PAGES, Map
from suites.lib.tlb_maps import AT_HERE, AT_THERE, FAR, OFFSET, THERE, FarPage

EVERY = 0x1FFF  # bits 12:0; the rest is reserved
ALL_ONES = 0xFFFF_FFFF
BASE_CR0 = CR0.PG | CR0.NE | CR0.ET | CR0.PE
CS64, CS32, DATA = 0xA9B, 0xC9B, 0xC93
DPL3 = 0x60

Fields = Mapping[str, int]
Prepare = Callable[[L1, Guest], tuple[Fields, Fields]]


def eax(exit: Exit) -> int:
    """EAX at the exit."""
    return exit.regs["rax"] & 0xFFFF_FFFF


def msr(exit: Exit) -> int:
    """EDX:EAX at the exit."""
    return exit.msr


def exit_code(exit: Exit) -> int:
    """EXITCODE."""
    return exit.code


@dataclass(frozen=True)
class Probe:
    """One field, or several that belong together. `seen_old` and `seen_new` are what L2 finds with either value.

    The code begins at `again` and ends at `end`, a VMMCALL. Where the exit code is what is looked at, another exit
    comes at `insn`. `prepare` gives the old and the new fields where they depend on the test's memory.
    """

    bit: Clean
    code: str
    old: Fields = field(default_factory=dict)
    new: Fields = field(default_factory=dict)
    seen_old: int = 0
    seen_new: int = 0
    see: Callable[[Exit], int] = eax
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    prepare: Prepare | None = None

    def start(self, l1: L1, **options: Any) -> Started:
        """Makes the guest. Skips the test where L1 lacks what the probe needs."""
        l1.need(*self.needs)
        code = self.code if "\nend:" in self.code else f"{self.code}\nend: vmmcall"
        guest = l1.guest(f"again: {code}", **(dict(self.options) | options))
        old, new = (self.old, self.new) if self.prepare is None else self.prepare(l1, guest)
        guest.vmcb.update(old)
        return Started(self, l1, guest, dict(old), dict(new))


@dataclass
class Started:
    """A probe's guest."""

    probe: Probe
    l1: L1
    guest: Guest
    old: dict[str, int]
    new: dict[str, int]

    def change(self) -> None:
        """L1 writes the new values."""
        self.guest.vmcb.update(self.new)

    def sees(self, clean: int = 0, **run: Any) -> int:
        """Runs L2's code with that clean field; what it finds."""
        guest = self.guest
        guest.vmcb.update({"rip": guest["again"], "clean": clean})
        exit = guest.run(**run)
        at = guest["insn"] if self.probe.see is exit_code and exit.code != VMEXIT.VMMCALL else guest["end"]
        expected = {} if self.probe.see is exit_code else {"code": VMEXIT.VMMCALL}
        assert exit.matches(rip=at, **expected)
        return self.probe.see(exit)

    def is_old(self, clean: int = 0, **run: Any) -> bool:
        """Runs L2 and compares what it finds with the old value."""
        seen = self.sees(clean, **run)
        return bool(self.l1.expect("what L2 finds before a change", seen, self.probe.seen_old))

    def is_new(self, clean: int = 0, **run: Any) -> bool:
        """Runs L2 and compares what it finds with the new value."""
        seen = self.sees(clean, **run)
        return bool(self.l1.expect("what L2 finds after the change", seen, self.probe.seen_new))


def clear(bit: Clean) -> dict[str, int]:
    """Clean fields that say that what is behind this bit was changed."""
    return {"zero": 0, "others_set": EVERY & ~(1 << bit)}


def bit_set(bit: Clean) -> dict[str, int]:
    """Clean fields that say that it was not."""
    return {"alone": 1 << bit, "every": EVERY}


def _rdmsr(number: int) -> str:
    return f"mov ecx, {number:#x}\nrdmsr"


# --- Bit 0: intercepts, TSC_OFFSET, pause count


def _exits(code: str, name: str, bit: int, exit: int, **more: Any) -> Probe:
    """An intercept that is added."""
    return Probe(
        Clean.INTERCEPTS, code, {}, {}, VMEXIT.VMMCALL, exit, exit_code, more, prepare=_add(name, 1 << bit)
    )  # fmt: skip


def _add(name: str, bits: int) -> Prepare:
    return lambda _l1, guest: ({}, {name: guest.vmcb[name] | bits})


def _takes_away(code: str, name: str, bit: int, exit: int, **more: Any) -> Probe:
    """An intercept that is removed."""

    def prepare(_l1: L1, guest: Guest) -> tuple[Fields, Fields]:
        return {name: guest.vmcb[name] | 1 << bit}, {name: guest.vmcb[name] & ~(1 << bit)}

    return Probe(Clean.INTERCEPTS, code, {}, {}, exit, VMEXIT.VMMCALL, exit_code, more, prepare=prepare)


INTERCEPTS = {
    "cr_read": _exits("insn: mov rbx, cr3", "intercept_cr_read", 3, 0x03),
    "cr_write": _exits("mov rbx, cr3\ninsn: mov cr3, rbx", "intercept_cr_write", 3, 0x13),
    "dr_read": _exits("insn: mov rbx, dr2", "intercept_dr_read", 2, 0x22),
    "dr_write": _exits("xor ebx, ebx\ninsn: mov dr2, rbx", "intercept_dr_write", 2, 0x32),
    # Without the intercept #UD finds an IDT of one byte, and its delivery ends in #GP, which is intercepted.
    "exception": Probe(
        Clean.INTERCEPTS, "insn: ud2", {"idtr.limit": 0}, {"intercept_exceptions": 0xFFFF_FFBF},
        VMEXIT.EXCP_UD, VMEXIT.EXCP_GP, exit_code,
    ),
    "general1": _exits("insn: cpuid", "intercept_misc1", 18, VMEXIT.CPUID),
    "general1_removed": _takes_away("insn: cpuid", "intercept_misc1", 18, VMEXIT.CPUID),
    "general2": _exits("insn: wbinvd", "intercept_misc2", 9, VMEXIT.WBINVD),
    "general2_removed": _takes_away("insn: wbinvd", "intercept_misc2", 9, VMEXIT.WBINVD),
    "tsc_offset": Probe(
        Clean.INTERCEPTS, "rdtsc\nmov eax, edx\nshr eax, 28", {"tsc_offset": 3 << 60}, {"tsc_offset": 5 << 60}, 3, 5
    ),
}  # fmt: skip

# --- Bit 1: the two maps' addresses


def _other_map(name: str, pages: int) -> Prepare:
    """The new map intercepts everything."""

    def prepare(l1: L1, guest: Guest) -> tuple[Fields, Fields]:
        new = l1.scratch(pages)
        guest.write(new, b"\xff" * pages * 0x1000)
        return {}, {name: new}

    return prepare


MAPS = {
    "iopm_base": Probe(
        Clean.IOPM, "insn: in al, 0x80", {}, {}, VMEXIT.VMMCALL, VMEXIT.IOIO, exit_code, {"intercept": ["ioio"]},
        prepare=_other_map("iopm_base_pa", 3),
    ),
    "msrpm_base": Probe(
        Clean.IOPM, "mov ecx, 0x174\ninsn: rdmsr", {}, {}, VMEXIT.VMMCALL, VMEXIT.MSR, exit_code,
        {"intercept": ["msr"]}, prepare=_other_map("msrpm_base_pa", 2),
    ),
}  # fmt: skip

# --- Bit 3: what L2 sees of 060h without an interrupt; test_virtual_interrupt.py has the rest

TPR = {
    "v_tpr": Probe(Clean.TPR, "mov rax, cr8", {"v_tpr": 3}, {"v_tpr": 9}, 3, 9),
    "v_intr_masking": Probe(Clean.TPR, "mov rax, cr8", {"v_tpr": 9}, {"v_intr_masking": 0}, 9, 0),
}

# --- Bit 4: N_CR3 and G_PAT

_PAT_OLD, _PAT_NEW = 0x0007_0406_0007_0406, 0x0106_0504_0007_0600


def _two_nested_maps(l1: L1, guest: Guest) -> tuple[Fields, Fields]:
    """One page leads to another one in each."""
    page = l1.scratch(1)
    maps = []
    for byte in (AT_HERE, AT_THERE):
        view, target = Map(guest, l1.scratch(PAGES)), l1.scratch(1)
        view.set(page, target | OPEN)
        guest.write(target, bytes([byte]))
        maps.append({"n_cr3": view.base})
    guest.regs["rbx"] = page
    return maps[0], maps[1]


NESTED = {
    "g_pat": Probe(
        Clean.NP, _rdmsr(MSR.PAT), {"g_pat": _PAT_OLD}, {"g_pat": _PAT_NEW},
        _PAT_OLD, _PAT_NEW, msr, {"np": True}, ("NP",),
    ),
    "n_cr3": Probe(
        Clean.NP, "movzx eax, byte ptr [rbx]", {}, {}, AT_HERE, AT_THERE, options={"np": True}, needs=("NP",),
        prepare=_two_nested_maps,
    ),
}  # fmt: skip

# --- Bit 5: CR0, CR3, CR4, EFER


def _two_tables(l1: L1, guest: Guest) -> tuple[Fields, Fields]:
    """CR3 names one set of tables or the other; FAR leads elsewhere in each."""
    here, there = FarPage(l1), FarPage(l1)
    here.place(guest)
    there.place(guest, target=THERE)
    guest.regs["rbx"] = FAR + OFFSET
    return {"cr3": here.base}, {"cr3": there.base}


_SYSTEM = EFER.SVME | EFER.LMA | EFER.LME
CONTROL = {
    "cr0": Probe(
        Clean.CRX, "mov rax, cr0", {"cr0": BASE_CR0}, {"cr0": BASE_CR0 | CR0.AM | CR0.WP},
        BASE_CR0, BASE_CR0 | CR0.AM | CR0.WP,
    ),
    "cr0_effect": Probe(
        Clean.CRX, "insn: fnop", {"cr0": BASE_CR0}, {"cr0": BASE_CR0 | CR0.TS},
        VMEXIT.VMMCALL, VMEXIT.EXCP_NM, exit_code,
    ),
    "cr3": Probe(Clean.CRX, "movzx eax, byte ptr [rbx]", seen_old=AT_HERE, seen_new=AT_THERE, prepare=_two_tables),
    "cr4": Probe(
        Clean.CRX, "mov rax, cr4", {"cr4": CR4.PAE}, {"cr4": CR4.PAE | CR4.TSD | CR4.OSFXSR},
        CR4.PAE, CR4.PAE | CR4.TSD | CR4.OSFXSR,
    ),
    "efer": Probe(
        Clean.CRX, _rdmsr(MSR.EFER), {"efer": _SYSTEM},
        {"efer": _SYSTEM | EFER.SCE}, _SYSTEM, _SYSTEM | EFER.SCE, msr,
    ),
}  # fmt: skip

# --- Bit 6: DR6, DR7. No breakpoint is enabled.

DEBUG = {
    "dr6": Probe(Clean.DRX, "mov rax, dr6", {"dr6": 0xFFFF_0FF0}, {"dr6": 0xFFFF_4FF0}, 0xFFFF_0FF0, 0xFFFF_4FF0),
    "dr7": Probe(Clean.DRX, "mov rax, dr7", {"dr7": 0x400}, {"dr7": 0x00DF_0400}, 0x400, 0x00DF_0400),
}

# --- Bit 7: GDTR, IDTR


def _table(name: str, part: str, old: int, new: int) -> Probe:
    read = "movzx eax, word ptr [rsp - 32]" if part == "limit" else "mov eax, [rsp - 30]"
    place = f"{name}r.{part}"
    return Probe(Clean.DT, f"s{name} [rsp - 32]\n{read}", {place: old}, {place: new}, old, new)


TABLES = {
    f"{name}r_{part}": _table(name, part, old, new)
    for name, part, old, new in (
        ("gdt", "base", 0x0012_3000, 0x0045_6780),
        ("gdt", "limit", 0x1237, 0x0457),
        ("idt", "base", 0x0067_8000, 0x0098_7650),
        ("idt", "limit", 0x0FFF, 0x0237),
    )
}

# --- Bit 8: CS, SS, DS, ES and CPL


def _selector(name: str) -> Probe:
    old, new = {f"{name}.selector": 0x1238}, {f"{name}.selector": 0x2340}
    return Probe(Clean.SEG, f"xor eax, eax\nmov ax, {name}", old, new, 0x1238, 0x2340)


def _base(name: str) -> Probe:
    """A 32-bit guest reads through the segment."""

    def prepare(l1: L1, guest: Guest) -> tuple[Fields, Fields]:
        page = l1.scratch(1)
        guest.write(page, bytes([AT_HERE]))
        guest.write(page + 8, bytes([AT_THERE]))
        guest.regs["rbx"] = page
        return {f"{name}.base": 0}, {f"{name}.base": 8}

    code = f"movzx eax, byte ptr {name}:[ebx]"
    return Probe(Clean.SEG, code, {}, {}, AT_HERE, AT_THERE, options={"mode": "prot32"}, prepare=prepare)


SEGMENTS = {
    **{f"{name}_selector": _selector(name) for name in ("cs", "ss", "ds", "es")},
    **{f"{name}_base": _base(name) for name in ("ss", "ds", "es")},
    # 40h is a prefix in 64-bit mode, and INC EAX in a 32-bit segment.
    "cs_attrib": Probe(
        Clean.SEG, "xor eax, eax\n.byte 0x40, 0x90", {"cs.attrib": CS64}, {"cs.attrib": CS32}, 0, 1
    ),
    # The same RIP, 32 bytes further on.
    "cs_base": Probe(
        Clean.SEG,
        "mov eax, 1\njmp end\n.balign 32\nmov eax, 2\njmp far\n.balign 32\nend: vmmcall\n.balign 32\nfar: vmmcall",
        {"cs.base": 0}, {"cs.base": 0x20}, 1, 2, options={"mode": "prot32"},
    ),
    "cpl": Probe(
        Clean.SEG, "insn: hlt",
        {"cpl": 0, "cs.attrib": CS64, "ss.attrib": DATA},
        {"cpl": 3, "cs.attrib": CS64 | DPL3, "ss.attrib": DATA | DPL3},
        VMEXIT.HLT, VMEXIT.EXCP_GP, exit_code, {"intercept": ["hlt"]},
    ),
}  # fmt: skip

# --- Bit 9: CR2. Bit 10: the branch records.

FAULT_ADDRESS = {
    "cr2": Probe(Clean.CR2, "mov rax, cr2", {"cr2": 0x1111_2222}, {"cr2": 0x3333_4444}, 0x1111_2222, 0x3333_4444)
}


def _record(name: str, number: int, old: int, new: int) -> Probe:
    code = _rdmsr(number)
    return Probe(
        Clean.LBR, code, {"virt_ext": 1, "dbgctl": 0, name: old}, {name: new}, old, new, msr, needs=("LbrVirt",)
    )


RECORDS = {
    "dbgctl": _record("dbgctl", MSR.DEBUGCTL, 0, 1),
    "br_from": _record("br_from", MSR.BR_FROM, 0x1234_5670, 0x2345_6780),
    "br_to": _record("br_to", MSR.BR_TO, 0x1111_2220, 0x2222_3330),
    "last_excp_from": _record("last_excp_from", MSR.LAST_EXCP_FROM, 0x3333_4440, 0x4444_5550),
    "last_excp_to": _record("last_excp_to", MSR.LAST_EXCP_TO, 0x5555_6660, 0x6666_7770),
}

ALL: dict[str, Probe] = {
    **INTERCEPTS, **MAPS, **TPR, **NESTED, **CONTROL, **DEBUG, **TABLES, **SEGMENTS, **FAULT_ADDRESS, **RECORDS,
}  # fmt: skip
