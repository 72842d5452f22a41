"""A VMCB image: 4096 bytes read and written by field name. The table itself is in `fields`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.svm.bits import describe_bits, hex_of
from harness.svm.events import describe_event
from harness.svm.exits import describe_exitcode
from harness.svm.fields import (
    FIELD_BY_NAME,
    FIELDS,
    SAVE_AREA,
    SEGMENTS,
    VMCB_SIZE,
    VMLOAD_FIELDS,
    VMLOAD_RANGES,
    WHOLE_FIELDS,
    Clean,
    Field,
)
from harness.svm.intercepts import INTERCEPTS, intercept_exit_code

__all__ = [
    "FIELDS", "INTERCEPTS", "SAVE_AREA", "SEGMENTS", "VMCB_SIZE", "VMLOAD_FIELDS", "VMLOAD_RANGES", "WHOLE_FIELDS",
    "Clean", "Field", "FieldChange", "Vmcb", "clean_bits_for", "describe", "diff", "field", "intercept_exit_code",
]  # fmt: skip


def field(name: str) -> Field:
    """The field of this name. KeyError, with the nearest names, if there is none."""
    try:
        return FIELD_BY_NAME[name]
    except KeyError:
        near = ", ".join(difflib.get_close_matches(name, FIELD_BY_NAME, n=4)) or "see harness/svm/fields.py"
        raise KeyError(f"the VMCB has no field {name!r}; near: {near}") from None


class Vmcb:
    """A mutable VMCB page. `Vmcb()` is all zeros; bytes given must be exactly one page and are copied."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | bytearray | None = None, fields: Mapping[str, int] | None = None) -> None:
        self.data = bytearray(VMCB_SIZE) if data is None else bytearray(data)
        if len(self.data) != VMCB_SIZE:
            raise ValueError(f"a VMCB has {VMCB_SIZE} bytes, got {len(self.data)}")
        self.update(fields or {})

    def get(self, name: str) -> int:
        """The field's value, little-endian, sub-fields shifted down."""
        item = field(name)
        raw = int.from_bytes(self.data[item.offset : item.end], "little")
        return raw >> item.bit_offset & item.max

    def set(self, name: str, value: int) -> None:
        """Write the field. ValueError if the value does not fit; a sub-field leaves its neighbours alone."""
        item = field(name)
        if not 0 <= value <= item.max:
            raise ValueError(f"{value:#x} does not fit {item}, which has {item.bit_width} bits")
        raw = int.from_bytes(self.data[item.offset : item.end], "little")
        raw = raw & ~item.mask | value << item.bit_offset
        self.data[item.offset : item.end] = raw.to_bytes(item.width_bytes, "little")

    def update(self, fields: Mapping[str, int]) -> None:
        """Write several fields, in the mapping's order."""
        for name, value in fields.items():
            self.set(name, value)

    def get_bytes(self, name: str) -> bytes:
        """The bytes of a whole field (`insn_bytes`), or of the field that holds a sub-field."""
        item = field(name)
        return bytes(self.data[item.offset : item.end])

    def intercept(self, *names: str, on: bool = True) -> None:
        """Set (or clear) intercept bits by name. KeyError for an unknown one."""
        for name in names:
            word, number = _intercept(name)
            value = self.get(word)
            self.set(word, value | 1 << number if on else value & ~(1 << number))

    def intercepts(self, name: str) -> bool:
        """Whether this intercept bit is set."""
        word, number = _intercept(name)
        return bool(self.get(word) >> number & 1)

    def copy(self) -> Vmcb:
        """An image of its own with the same bytes."""
        return Vmcb(self.data)

    def __getitem__(self, name: str) -> int:
        return self.get(name)

    def __setitem__(self, name: str, value: int) -> None:
        self.set(name, value)

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __eq__(self, other: object) -> bool:
        return self.data == other.data if isinstance(other, Vmcb) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        set_fields = sum(any(self.data[item.offset : item.end]) for item in WHOLE_FIELDS)
        return f"<Vmcb {set_fields} fields not 0, exitcode {describe_exitcode(self.get('exitcode'))}>"


def _intercept(name: str) -> tuple[str, int]:
    try:
        return INTERCEPTS[name]
    except KeyError:
        near = ", ".join(difflib.get_close_matches(name, INTERCEPTS, n=4)) or "see harness/svm/intercepts.py"
        raise KeyError(f"there is no intercept {name!r}; near: {near}") from None


@dataclass(frozen=True)
class FieldChange:
    """A difference between two images.

    `field` is None for bytes that no field owns; then `name` is their range and the values are those bytes.
    Values are little-endian integers of `width_bytes` bytes.
    """

    name: str
    offset: int
    width_bytes: int
    before: int
    after: int
    field: Field | None = None

    def __str__(self) -> str:
        width = 8 * self.width_bytes
        text = f"{self.name}: {hex_of(self.before, width)} -> {hex_of(self.after, width)}"
        if self.field is not None and self.field.bits:
            text += f" ({describe(self.name, self.before)} -> {describe(self.name, self.after)})"
        return text


_BLOCK = 64


def _owners() -> tuple[Field | None, ...]:
    owners: list[Field | None] = [None] * VMCB_SIZE
    for item in WHOLE_FIELDS:
        owners[item.offset : item.end] = [item] * item.width_bytes
    return tuple(owners)


_OWNERS = _owners()
"""The whole field that each byte of the page belongs to."""


def diff(before: Vmcb, after: Vmcb) -> list[FieldChange]:
    """What differs, by whole field in the order of the page; bytes of no field come as runs of changed bytes."""
    changes: list[FieldChange] = []
    old, new = bytes(before.data), bytes(after.data)
    at = 0
    while at < VMCB_SIZE:
        if at % _BLOCK == 0 and old[at : at + _BLOCK] == new[at : at + _BLOCK]:
            at += _BLOCK  # nearly all of the page, in nearly every comparison
            continue
        item = _OWNERS[at]
        end = item.end if item is not None else at + 1
        if old[at:end] != new[at:end]:
            while item is None and end < VMCB_SIZE and _OWNERS[end] is None and old[end] != new[end]:
                end += 1
            name = item.name if item is not None else f"reserved {at:03X}h..{end - 1:03X}h"
            was, now = (int.from_bytes(image[at:end], "little") for image in (old, new))
            changes.append(FieldChange(name, at, end - at, was, now, item))
        at = end
    return changes


def clean_bits_for(names: Iterable[str]) -> int:
    """The clean bits (0C0h) that must be 0 after these fields were changed; fields that are never cached add none."""
    mask = 0
    for name in names:
        number = field(name).clean_bit
        if number is not None:
            mask |= 1 << number
    return mask


def describe(name: str, value: int) -> str:
    """What `value` means in the field `name`, by bit names; empty where the value speaks for itself."""
    item = field(name)
    if name in ("eventinj", "exitintinfo"):
        return describe_event(value)
    if name == "exitcode":
        return describe_exitcode(value)
    if item.parent is not None and item.bit_width == 1:
        return f"{item.meaning}: {'yes' if value else 'no'}"
    return describe_bits(item.bits, value, item.bit_width)
