"""EVENTINJ (0A8h) and EXITINTINFO (088h): one encoding for both (APM2 15.20, 15.7.2), and exception vectors by name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from harness.svm.bits import Bits, bit, describe_bits, reserved, span

VECTORS: dict[int, str] = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP",
    12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XF", 21: "#CP", 28: "#HV", 29: "#VC",
    30: "#SX",
}  # fmt: skip
"""Vectors that have a name. 2 is no exception; 9, 15, 20, 22..27 and 31 have none."""

_NUMBERS = {name: number for number, name in VECTORS.items()} | {"#NMI": 2, "#SF": 12, "#XM": 19}

ERROR_CODE_VECTORS = frozenset({8, 10, 11, 12, 13, 14, 17, 21, 29, 30})
"""Vectors whose delivery pushes an error code (APM2 8.2)."""


def vector_name(vector: int) -> str:
    """`"#GP"` for 13; `"vector 32"` for one without a name."""
    return VECTORS.get(vector, f"vector {vector}")


def vector_number(name: str) -> int:
    """13 for `"#GP"`. ValueError for a name that is no exception's."""
    try:
        return _NUMBERS[name.upper()]
    except KeyError:
        raise ValueError(f"{name!r} is no exception; known: {', '.join(sorted(_NUMBERS))}") from None


def pushes_error_code(vector: int) -> bool:
    """Whether delivery of this exception pushes an error code."""
    return vector in ERROR_CODE_VECTORS


class EventType(IntEnum):
    """TYPE, bits 10:8. 1, 5, 6 and 7 are reserved."""

    INTR = 0
    NMI = 2
    EXCEPTION = 3
    SOFTWARE = 4


EVENT_TYPE_NAMES = {0: "INTR", 2: "NMI", 3: "exception", 4: "software interrupt"}

EVENT: tuple[Bits, ...] = (
    span(7, 0, "VECTOR"),
    span(10, 8, "TYPE", EVENT_TYPE_NAMES),
    bit(11, "EV"),
    reserved(30, 12),
    bit(31, "V", always=True),
    span(63, 32, "ERRORCODE"),
)
EVENT_RESERVED = 0x7FFF_F000
EVENT_VALID = 1 << 31


@dataclass(frozen=True)
class Event:
    """An event to inject, or one that was being delivered when #VMEXIT came.

    `type` is 0..7, `vector` 0..255, `error_code` 32 bits or None (EV=0), `reserved` the stray bits 30:12 in place.
    """

    type: int
    vector: int
    error_code: int | None = None
    valid: bool = True
    reserved: int = 0

    def pack(self) -> int:
        """The 64-bit field. ValueError if a part does not fit."""
        if not 0 <= self.vector <= 0xFF:
            raise ValueError(f"vector {self.vector} does not fit 8 bits")
        if not 0 <= self.type <= 7:
            raise ValueError(f"type {self.type} does not fit 3 bits")
        if self.error_code is not None and not 0 <= self.error_code <= 0xFFFF_FFFF:
            raise ValueError(f"error code {self.error_code:#x} does not fit 32 bits")
        if self.reserved & ~EVENT_RESERVED:
            raise ValueError(f"{self.reserved:#x} has bits outside 30:12")
        value = self.vector | self.type << 8 | self.reserved
        if self.error_code is not None:
            value |= 1 << 11 | self.error_code << 32
        return value | (EVENT_VALID if self.valid else 0)

    @classmethod
    def unpack(cls, value: int) -> Event:
        """The parts of a 64-bit field. An error code without EV is dropped (it means nothing)."""
        return cls(
            type=value >> 8 & 7,
            vector=value & 0xFF,
            error_code=value >> 32 & 0xFFFF_FFFF if value >> 11 & 1 else None,
            valid=bool(value & EVENT_VALID),
            reserved=value & EVENT_RESERVED,
        )

    def __str__(self) -> str:
        if not self.valid:
            return "no event"
        if self.type == EventType.EXCEPTION:
            what = f"exception {vector_name(self.vector)}"
        else:
            what = f"{EVENT_TYPE_NAMES.get(self.type, f'reserved type {self.type}')} vector {self.vector}"
        return what if self.error_code is None else f"{what} [{self.error_code:X}h]"


def inject_exception(vector: int | str, error_code: int | None = None) -> int:
    """EVENTINJ for an exception, by number or name. EV is set exactly if an error code is given."""
    number = vector_number(vector) if isinstance(vector, str) else vector
    return Event(EventType.EXCEPTION, number, error_code).pack()


def inject_interrupt(vector: int) -> int:
    """EVENTINJ for an external interrupt."""
    return Event(EventType.INTR, vector).pack()


def inject_software(vector: int) -> int:
    """EVENTINJ for INT n."""
    return Event(EventType.SOFTWARE, vector).pack()


def inject_nmi() -> int:
    """EVENTINJ for an NMI. Hardware ignores the vector; 2 is what a reader expects to see."""
    return Event(EventType.NMI, 2).pack()


def describe_event(value: int) -> str:
    """Bit names, then the meaning: `VECTOR=Eh TYPE=3(exception) EV V=1 ERRORCODE=2h: exception #PF [2h]`."""
    return f"{describe_bits(EVENT, value)}: {Event.unpack(value)}"
