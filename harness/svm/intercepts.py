"""Intercept bits by name: which word of the control area, which bit, which exit code (APM2 App. B, App. C)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.names import UnknownName, near
from harness.svm.bits import Bits, flags
from harness.svm.events import VECTORS

_MISC1 = (
    "intr", "nmi", "smi", "init", "vintr", "cr0_sel", "sidt", "sgdt", "sldt", "str", "lidt", "lgdt", "lldt", "ltr",
    "rdtsc", "rdpmc", "pushf", "popf", "cpuid", "rsm", "iret", "intn", "invd", "pause", "hlt", "invlpg", "invlpga",
    "ioio", "msr", "task_switch", "ferr_freeze", "shutdown",
)  # fmt: skip
_MISC2 = (
    "vmrun", "vmmcall", "vmload", "vmsave", "stgi", "clgi", "skinit", "rdtscp", "icebp", "wbinvd", "monitor", "mwait",
    "mwait_armed", "xsetbv", "rdpru", "efer_write_trap", *(f"cr{n}_write_trap" for n in range(16)),
)  # fmt: skip
_MISC3 = ("invlpgb", "invlpgb_illegal", "invpcid", "mcommit", "tlbsync", "buslock", "idle_hlt")

# Other names that people use for the same bit.
_ALIASES = {
    "sel_cr0": "cr0_sel", "cr0_sel_write": "cr0_sel", "int": "intn", "task": "task_switch", "ferr": "ferr_freeze",
    "idtr_read": "sidt", "gdtr_read": "sgdt", "ldtr_read": "sldt", "tr_read": "str",
    "idtr_write": "lidt", "gdtr_write": "lgdt", "ldtr_write": "lldt", "tr_write": "ltr", "io": "ioio",
}  # fmt: skip


@dataclass(frozen=True)
class InterceptWord:
    """A VMCB field made of intercept bits. `first_exit_code` is the exit code of bit 0; bit n gives code + n."""

    field: str
    offset: int
    width_bytes: int
    first_exit_code: int
    names: tuple[str, ...]
    apm: str

    def bits(self) -> tuple[Bits, ...]:
        """The word's layout, for reading it back to people."""
        return flags({number: name.upper() for number, name in enumerate(self.names)})


WORDS: tuple[InterceptWord, ...] = (
    InterceptWord("intercept_cr_read", 0x00, 2, 0x00, tuple(f"cr{n}_read" for n in range(16)), "15.9"),
    InterceptWord("intercept_cr_write", 0x02, 2, 0x10, tuple(f"cr{n}_write" for n in range(16)), "15.9"),
    InterceptWord("intercept_dr_read", 0x04, 2, 0x20, tuple(f"dr{n}_read" for n in range(16)), "15.9"),
    InterceptWord("intercept_dr_write", 0x06, 2, 0x30, tuple(f"dr{n}_write" for n in range(16)), "15.9"),
    InterceptWord("intercept_exceptions", 0x08, 4, 0x40, tuple(f"exc_{n}" for n in range(32)), "15.12"),
    InterceptWord("intercept_misc1", 0x0C, 4, 0x60, _MISC1, "15.9; 15.13"),
    InterceptWord("intercept_misc2", 0x10, 4, 0x80, _MISC2, "15.9"),
    InterceptWord("intercept_misc3", 0x14, 4, 0xA0, _MISC3, "15.9"),
)


def _table() -> dict[str, tuple[str, int]]:
    table = {name: (word.field, number) for word in WORDS for number, name in enumerate(word.names)}
    for vector, name in VECTORS.items():  # "#UD" is what a test says; NMI is left out, "nmi" is the event's intercept
        if name.startswith("#"):
            table[name] = ("intercept_exceptions", vector)
    for alias, name in _ALIASES.items():
        table[alias] = table[name]
    return table


INTERCEPTS: dict[str, tuple[str, int]] = _table()
"""Intercept name (`"cpuid"`, `"cr3_write"`, `"#UD"`, `"exc_6"`) -> (VMCB field name, bit number)."""


def intercept_bit(name: str) -> tuple[str, int]:
    """The VMCB field that holds an intercept, and the bit's number. UnknownName, a KeyError, for an unknown name."""
    try:
        return INTERCEPTS[name]
    except KeyError:
        raise UnknownName(f"no such intercept: {name}{near(name, INTERCEPTS)}") from None


def intercept_exit_code(name: str) -> int:
    """The exit code with which this intercept shows. KeyError for an unknown name."""
    field, number = intercept_bit(name)
    return next(word.first_exit_code for word in WORDS if word.field == field) + number
