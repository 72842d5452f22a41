"""Named bits of a value, and how to say in words what a value holds.

Every register, VMCB field and exit information word is described by a tuple of `Bits`; nothing here knows which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bits:
    """A run of bits with a name.

    `low` is the number of the lowest bit, `width` counts bits. `values` names values of the run.
    `reserved` marks bits that have no meaning in the APM (they are spelled out only when they are not 0).
    `always` says a multi-bit run even when it is 0.
    """

    low: int
    width: int
    name: str
    values: Mapping[int, str] = field(default_factory=dict)
    reserved: bool = False
    always: bool = False

    @property
    def mask(self) -> int:
        """The bits of the run, in place."""
        return ((1 << self.width) - 1) << self.low

    def of(self, value: int) -> int:
        """The run's value, shifted down."""
        return (value >> self.low) & ((1 << self.width) - 1)


def bit(low: int, name: str, *, always: bool = False) -> Bits:
    """One bit."""
    return Bits(low, 1, name, always=always)


def span(high: int, low: int, name: str, values: Mapping[int, str] | None = None, *, always: bool = True) -> Bits:
    """Bits `high`..`low`, both included (the order the APM uses)."""
    return Bits(low, high - low + 1, name, values or {}, always=always)


def reserved(high: int, low: int) -> Bits:
    """Reserved bits `high`..`low`, both included."""
    return Bits(low, high - low + 1, "reserved", reserved=True)


def flags(names: Mapping[int, str]) -> tuple[Bits, ...]:
    """Single bits from a {number: name} map."""
    return tuple(bit(low, name) for low, name in sorted(names.items()))


def reserved_mask(layout: tuple[Bits, ...], width_bits: int) -> int:
    """All bits of a `width_bits` wide value that no named run covers, or that are marked reserved."""
    named = 0
    for run in layout:
        if not run.reserved:
            named |= run.mask
    return ((1 << width_bits) - 1) & ~named


def hex_of(value: int, width_bits: int) -> str:
    """Hexadecimal in the APM's manner: `0000000000000002h`, an underscore between the halves of a 64-bit value."""
    digits = f"{value:0{max(1, (width_bits + 3) // 4)}X}"
    if len(digits) == 16:
        digits = f"{digits[:8]}_{digits[8:]}"
    return f"{digits}h"


def describe_bits(layout: tuple[Bits, ...], value: int, width_bits: int = 64) -> str:
    """What `value` holds, by name: set flags by their names, runs as NAME=value, unknown bits by their numbers.

    An empty value gives "0"; a layout without bits gives an empty string.
    """
    if not layout:
        return ""
    parts: list[str] = []
    covered = 0
    for run in sorted(layout, key=lambda item: item.low):
        if run.reserved:
            continue
        covered |= run.mask
        got = run.of(value)
        if not got and not run.always:
            continue
        if run.width == 1 and not run.always:
            parts.append(run.name)
        else:
            text = str(got) if run.width < 5 else f"{got:X}h"
            if got in run.values:
                text += f"({run.values[got]})"
            parts.append(f"{run.name}={text}")
    stray = value & ((1 << width_bits) - 1) & ~covered
    if stray:
        parts.append("reserved bits " + numbers_of(stray))
    if value >> width_bits:
        parts.append(f"does not fit {width_bits} bits")
    return " ".join(parts) if parts else "0"


def numbers_of(mask: int) -> str:
    """The numbers of the set bits, runs of three and more shortened: `63:52, 9, 1`."""
    numbers = [n for n in range(mask.bit_length()) if mask >> n & 1]
    parts: list[str] = []
    while numbers:
        high = low = numbers.pop()
        while numbers and numbers[-1] == low - 1:
            low = numbers.pop()
        if high - low >= 2:
            parts.append(f"{high}:{low}")
        else:
            parts.extend(str(n) for n in range(high, low - 1, -1))
    return ", ".join(parts)
