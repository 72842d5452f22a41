"""What an exit brings with it: EXITINFO1 and EXITINFO2, nRIP, and which of them the APM defines (APM2 15.7, App. C)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .bits import Bits, bit, describe_bits, flags, hex_of, span
from .events import pushes_error_code, vector_name
from .exitcodes import KNOWN_CODES, VMEXIT, exit_name
from .registers import register_names

__all__ = [
    "EXITS",
    "IOIO",
    "KNOWN_CODES",
    "NPF_ERROR",
    "PF_ERROR",
    "SELECTOR_ERROR",
    "SMI",
    "TASK_SWITCH",
    "VMEXIT",
    "ExitFacts",
    "InfoFacts",
    "describe_exitcode",
    "describe_exitinfo",
    "describe_info",
    "exit_facts",
    "exit_name",
    "info1_defined",
    "info2_defined",
    "ioio_info",
    "npf_info",
    "nrip_defined",
]  # fmt: skip

PF_ERROR: tuple[Bits, ...] = flags({0: "P", 1: "RW", 2: "US", 3: "RSV", 4: "ID", 5: "PK", 6: "SS", 31: "RMP"})
"""Page fault error code (APM2 8.4.2)."""

NPF_ERROR: tuple[Bits, ...] = (
    *flags({0: "P", 1: "RW", 2: "US", 3: "RSV", 4: "ID", 6: "SS", 31: "RMP"}),
    *flags({32: "final-address", 33: "guest-table", 34: "ENC", 35: "SIZEM", 36: "VMPL", 37: "SSS"}),
)
"""EXITINFO1 of a nested page fault (APM2 15.25.6)."""

SELECTOR_ERROR: tuple[Bits, ...] = (bit(0, "EXT"), bit(1, "IDT"), bit(2, "TI"), span(15, 3, "INDEX", always=False))

IOIO_SEGMENTS = {0: "ES", 1: "CS", 2: "SS", 3: "DS", 4: "FS", 5: "GS"}
IOIO: tuple[Bits, ...] = (
    Bits(0, 1, "TYPE", {0: "OUT", 1: "IN"}, always=True),
    *flags({2: "STR", 3: "REP", 4: "SZ8", 5: "SZ16", 6: "SZ32", 7: "A16", 8: "A32", 9: "A64"}),
    span(12, 10, "SEG", IOIO_SEGMENTS),
    span(31, 16, "PORT"),
)
"""EXITINFO1 of an intercepted IN or OUT (APM2 15.10.2)."""

SMI: tuple[Bits, ...] = (
    Bits(0, 1, "SOURCE", {0: "internal", 1: "external"}, always=True),
    bit(1, "MCREDIR"),
    *flags({32: "IN", 33: "VALID", 34: "STR", 35: "REP", 43: "TF"}),
    span(38, 36, "SIZE", always=False),
    span(41, 39, "ASIZE", always=False),
    span(47, 44, "BRP", always=False),
    span(63, 48, "PORT", always=False),
)

TASK_SWITCH: tuple[Bits, ...] = (
    span(31, 0, "ERRORCODE", always=False),
    *flags({36: "IRET", 38: "JMP", 44: "HAS_ERRORCODE", 48: "RF"}),
)
"""EXITINFO2 of an intercepted task switch (APM2 15.14.1)."""

_CR_ACCESS: tuple[Bits, ...] = (span(3, 0, "GPR", dict(enumerate(register_names))), bit(63, "MOV"))
_DR_ACCESS: tuple[Bits, ...] = (span(3, 0, "GPR", dict(enumerate(register_names))),)
_VECTOR_INFO: tuple[Bits, ...] = (span(7, 0, "VECTOR"),)
_MSR_INFO: tuple[Bits, ...] = (Bits(0, 1, "TYPE", {0: "RDMSR", 1: "WRMSR"}, always=True),)
_ERROR_CODE: tuple[Bits, ...] = (span(31, 0, "ERRORCODE"),)


@dataclass(frozen=True)
class InfoFacts:
    """One EXITINFO word of one exit code.

    `defined`: the APM says what is in it. `needs`: only where this CPUID feature is offered ("" always).
    `layout` names its bits, `meaning` says what it is where the whole word is one thing.
    """

    defined: bool = False
    meaning: str = ""
    layout: tuple[Bits, ...] = ()
    needs: str = ""
    apm: str = "15.6"


UNDEFINED = InfoFacts()


@dataclass(frozen=True)
class ExitFacts:
    """One exit code.

    `nrip`: with NRIPS, 0C8h holds the next sequential instruction pointer; otherwise it is saved as 0 (APM2 15.7.1).
    `trap`: the saved state is the one after the instruction. `needs`: the feature without which the code cannot come.
    """

    code: int
    name: str
    info1: InfoFacts = UNDEFINED
    info2: InfoFacts = UNDEFINED
    nrip: bool = False
    trap: bool = False
    needs: str = ""


def _nrip(code: int) -> bool:
    """The exits whose nRIP is defined: faults of instructions that L1 may want to skip (APM2 15.7.1)."""
    if code <= 0x3F or code in (0x43, 0x44, 0x45):
        return True
    if 0x65 <= code <= 0x7C:
        return True
    return 0x80 <= code <= 0x8E or 0xA0 <= code <= 0xA4 or code == 0xA6


def _info(code: int) -> tuple[InfoFacts, InfoFacts]:
    if code <= 0x1F:
        return InfoFacts(True, "", _CR_ACCESS, "DecodeAssists", "15.8.1"), UNDEFINED
    if code <= 0x3F:
        return InfoFacts(True, "", _DR_ACCESS, "DecodeAssists", "15.8.1"), UNDEFINED
    if 0x40 <= code <= 0x5F:
        return _exception_info(code - 0x40)
    return _INFO.get(code, (UNDEFINED, UNDEFINED))


def _exception_info(vector: int) -> tuple[InfoFacts, InfoFacts]:
    if vector == 14:
        return (
            InfoFacts(True, "error code", PF_ERROR, apm="15.12.15"),
            InfoFacts(True, "faulting linear address", apm="15.12.15"),
        )
    # #DF and #TS push an error code too, but 15.12.9 and 15.12.11 do not promise it here.
    if pushes_error_code(vector) and vector not in (8, 10, 28, 29):
        layout = SELECTOR_ERROR if vector in (11, 12, 13) else _ERROR_CODE
        return InfoFacts(True, "error code", layout, apm="15.12"), UNDEFINED
    return UNDEFINED, UNDEFINED


_INFO: dict[int, tuple[InfoFacts, InfoFacts]] = {
    VMEXIT.SMI: (InfoFacts(True, "", SMI, apm="15.13.3"), InfoFacts(True, "RIP of the I/O instruction", apm="15.13.3")),
    VMEXIT.INTN: (InfoFacts(True, "", _VECTOR_INFO, "DecodeAssists", "15.8.2"), UNDEFINED),
    VMEXIT.INVLPG: (InfoFacts(True, "linear address", (), "DecodeAssists", "15.8.3"), UNDEFINED),
    VMEXIT.IOIO: (
        InfoFacts(True, "", IOIO, apm="15.10.2"),
        InfoFacts(True, "RIP after the instruction", apm="15.10.2"),
    ),
    VMEXIT.MSR: (InfoFacts(True, "", _MSR_INFO, apm="15.11"), UNDEFINED),
    VMEXIT.TASK_SWITCH: (
        InfoFacts(True, "selector of the incoming TSS", apm="15.14.1"),
        InfoFacts(True, "", TASK_SWITCH, apm="15.14.1"),
    ),
    VMEXIT.NPF: (
        InfoFacts(True, "", NPF_ERROR, apm="15.25.6"),
        InfoFacts(True, "faulting guest physical address", apm="15.25.6"),
    ),
    VMEXIT.BUSLOCK: (InfoFacts(True, "0", apm="15.14.5"), InfoFacts(True, "0", apm="15.14.5")),
    VMEXIT.AVIC_INCOMPLETE_IPI: (
        InfoFacts(True, "ICR", apm="15.29.9"),
        InfoFacts(True, "failure cause and table index", apm="15.29.9"),
    ),
    VMEXIT.AVIC_NOACCEL: (
        InfoFacts(True, "APIC offset and access type", apm="15.29.9"),
        InfoFacts(True, "vector of an EOI", apm="15.29.9"),
    ),
}

_NEEDS: dict[int, str] = {
    VMEXIT.NPF: "NP",
    VMEXIT.SKINIT: "SKINIT",
    VMEXIT.BUSLOCK: "BusLockThreshold",
    VMEXIT.IDLE_HLT: "IdleHltIntercept",
    VMEXIT.AVIC_INCOMPLETE_IPI: "AVIC",
    VMEXIT.AVIC_NOACCEL: "AVIC",
    VMEXIT.VMGEXIT: "SEV-ES",
    VMEXIT.PAGE_NOT_VALIDATED: "SEV-SNP",
    VMEXIT.BUSY: "SEV-SNP",
    VMEXIT.IDLE_REQUIRED: "SEV-SNP",
    VMEXIT.INVALID_PMC: "PmcVirt",
}


def _facts(code: int) -> ExitFacts:
    info1, info2 = _info(code)
    trap = 0x8F <= code <= 0x9F
    return ExitFacts(code, exit_name(code), info1, info2, _nrip(code), trap, _NEEDS.get(code, ""))


EXITS: dict[int, ExitFacts] = {code: _facts(code) for code in sorted(KNOWN_CODES)}


def exit_facts(code: int) -> ExitFacts:
    """The facts of a code; one that the APM does not list defines nothing."""
    return EXITS.get(code) or ExitFacts(code, exit_name(code))


Has = Callable[[str], bool]


def _always(_: str) -> bool:
    return True


def info1_defined(code: int, has: Has = _always) -> bool:
    """Whether EXITINFO1 may be compared. `has` is `Cpuid.has`; without it every feature counts as offered."""
    info = exit_facts(code).info1
    return info.defined and (not info.needs or has(info.needs))


def info2_defined(code: int, has: Has = _always) -> bool:
    """Whether EXITINFO2 may be compared."""
    info = exit_facts(code).info2
    return info.defined and (not info.needs or has(info.needs))


def nrip_defined(code: int, has: Has = _always) -> bool:
    """Whether 0C8h holds the next instruction's address (with NRIPS; APM2 15.7.1)."""
    return exit_facts(code).nrip and has("NRIPS")


def describe_exitcode(code: int) -> str:
    """`CPUID (72h)`."""
    if code >> 32:
        return f"{exit_name(code)} ({hex_of(code, 64)})"
    return f"{exit_name(code)} ({code:X}h)" if code in KNOWN_CODES else exit_name(code)


def describe_info(code: int, number: int, value: int) -> str:
    """What EXITINFO1 or 2 (`number`) says of an exit with this code, by bit names; "" where the APM says nothing."""
    facts = exit_facts(code)
    info = facts.info1 if number == 1 else facts.info2
    return " ".join(part for part in (info.meaning, describe_bits(info.layout, value)) if part) if info.defined else ""


def describe_exitinfo(code: int, info1: int, info2: int) -> str:
    """Both words in words: `EXITINFO1 00600021h: IN SZ16 PORT=60h; EXITINFO2 ...`. Undefined words are called so."""
    facts = exit_facts(code)
    return "; ".join(
        _describe_word(f"EXITINFO{number}", value, word)
        for number, value, word in ((1, info1, facts.info1), (2, info2, facts.info2))
    )


def _describe_word(label: str, value: int, info: InfoFacts) -> str:
    text = f"{label} {hex_of(value, 64)}"
    if not info.defined:
        return f"{text} (undefined for this exit)"
    details = " ".join(part for part in (info.meaning, describe_bits(info.layout, value)) if part)
    return f"{text}: {details}" + (f" (where {info.needs} is offered)" if info.needs else "")


def ioio_info(
    port: int,
    size_bytes: int,
    *,
    is_in: bool,
    string: bool = False,
    rep: bool = False,
    address_bits: int = 0,
    segment: int = 0,
) -> int:
    """EXITINFO1 of an I/O exit. `size_bytes` 1, 2 or 4; `address_bits` 16, 32 or 64 (0: none reported)."""
    sizes = {1: 1 << 4, 2: 1 << 5, 4: 1 << 6}
    addresses = {0: 0, 16: 1 << 7, 32: 1 << 8, 64: 1 << 9}
    if size_bytes not in sizes or address_bits not in addresses or not 0 <= port <= 0xFFFF or not 0 <= segment <= 5:
        raise ValueError("no such I/O access")
    value = port << 16 | segment << 10 | sizes[size_bytes] | addresses[address_bits] | int(is_in)
    return value | int(string) << 2 | int(rep) << 3


def npf_info(
    *, present: bool, write: bool, user: bool = True, fetch: bool = False, rsv: bool = False, table_walk: bool = False
) -> int:
    """EXITINFO1 of a nested page fault; `table_walk`: on a guest page-table page, else on the final address.

    `user` is 1 for every nested walk (APM2 15.25.5), whatever the guest's CPL.
    """
    value = int(present) | int(write) << 1 | int(user) << 2 | int(rsv) << 3 | int(fetch) << 4
    return value | 1 << (33 if table_walk else 32)


def describe_error_code(vector: int, error_code: int) -> str:
    """`P RW US` of a #PF, `IDT INDEX=8h` of a selector's fault; "" where the code has no bits, or is 0."""
    if vector == 14:
        return describe_bits(PF_ERROR, error_code, 32)
    if vector in (10, 11, 12, 13) and error_code:
        return describe_bits(SELECTOR_ERROR, error_code, 32)
    return ""


def describe_exception(vector: int, error_code: int | None) -> str:
    """`#PF[P RW US]`, `#GP[0]`, `#UD`."""
    name = vector_name(vector)
    if error_code is None:
        return name
    bits = describe_error_code(vector, error_code)
    if vector == 14:
        return f"{name}[{bits}]"
    if bits:
        return f"{name}[{error_code:X}h {bits}]"
    return f"{name}[{error_code:X}h]" if error_code else f"{name}[0]"
