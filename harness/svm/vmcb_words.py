"""A VMCB in words: how it differs from another one, field by field and bit by bit, and the whole of it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.svm.bits import Bits, numbers_of
from harness.svm.events import VECTORS, describe_event
from harness.svm.exits import describe_exitcode, describe_info
from harness.svm.intercepts import WORDS, InterceptWord
from harness.svm.templates import OUTPUT_PATTERN, OUTPUT_RANGES
from harness.svm.vmcb import Vmcb, describe, diff

_WORD_FIELDS = {word.field: word for word in WORDS}
_WIDE_BYTES = 32


@dataclass(frozen=True, slots=True)
class SetField:
    """A field that differs: `asid (058h)`, what the known-good VMCB has, what was set, and the bits by name."""

    name: str
    good: str
    now: str
    bits: str = ""


def differences(good: Vmcb, now: Vmcb) -> list[SetField]:
    """Each field that differs, but for the intercepts (see `intercepts`). Output fields that hold the pattern that
    they are filled with before VMRUN are left out.
    """
    told = []
    for change in diff(good, now):
        if change.name in _WORD_FIELDS or _filled(now, change.offset, change.width_bytes):
            continue
        width = 8 * change.width_bytes
        name = str(change.field) if change.field is not None else change.name
        if change.width_bytes > _WIDE_BYTES:
            told.append(SetField(name, f"{change.width_bytes} bytes", "others"))
            continue
        bits = ""
        if change.field is not None:
            bits = _bits(change.name, change.field.bits, change.before, change.after)
        told.append(SetField(name, _hex(change.before, width), _hex(change.after, width), bits))
    return told


def intercepts(good: Vmcb, now: Vmcb) -> list[str]:
    """The intercepts that differ: `+cpuid`, `-shutdown`; bits without a name as `+misc3[9]`."""
    told = []
    for word in WORDS:
        was, has = good[word.field], now[word.field]
        for number in range(8 * word.width_bytes):
            if (was ^ has) >> number & 1:
                told.append(f"{'+' if has >> number & 1 else '-'}{_intercept_name(word, number)}")
    return told


def whole(image: Vmcb) -> list[tuple[str, str, str]]:
    """Each field that is not 0: name with offset, value, meaning; then bytes that no field owns."""
    rows = []
    blank = Vmcb()
    for change in diff(blank, image):
        name = str(change.field) if change.field is not None else change.name
        if _filled(image, change.offset, change.width_bytes):
            rows.append((name, _hex(change.after, 8 * change.width_bytes), "as it was filled before VMRUN"))
        elif change.width_bytes > _WIDE_BYTES:
            rows.append((name, bytes(image.data[change.offset : change.offset + change.width_bytes]).hex(), ""))
        else:
            said = _meaning(change.name, change.after, image) if change.field is not None else ""
            rows.append((name, _hex(change.after, 8 * change.width_bytes), said))
    return rows


def whole_fields(image: Vmcb) -> list[tuple[str, int, int, int, str]]:
    """Name, offset, width in bytes, value and meaning of each field that is not 0, and of runs that no field owns."""
    rows = []
    for each in diff(Vmcb(), image):
        plain = each.field is not None and not _filled(image, each.offset, each.width_bytes)
        meaning = _meaning(each.name, each.after, image) if plain and each.width_bytes <= 8 else ""
        rows.append((each.name, each.offset, each.width_bytes, each.after, meaning))
    return rows


def _intercept_name(word: InterceptWord, number: int) -> str:
    if word.field == "intercept_exceptions" and VECTORS.get(number, "").startswith("#"):
        return VECTORS[number]
    if number < len(word.names):
        return word.names[number]
    return f"{word.field.removeprefix('intercept_')}[{number}]"


def _hex(value: int, width_bits: int) -> str:
    """As failures show it: 0000_0000_0081_0001h."""
    digits = f"{value:0{max(1, (width_bits + 3) // 4)}X}"
    parts = [digits[max(0, end - 4) : end] for end in range(len(digits), 0, -4)]
    return "_".join(reversed(parts)) + "h"


def _meaning(name: str, value: int, image: Vmcb) -> str:
    word = _WORD_FIELDS.get(name)
    if word is not None:
        return " ".join(_intercept_name(word, n) for n in range(8 * word.width_bytes) if value >> n & 1)
    if name in ("exitinfo1", "exitinfo2"):
        return describe_info(image["exitcode"], int(name[-1]), value)
    return describe(name, value)


def _bits(name: str, layout: tuple[Bits, ...], was: int, now: int) -> str:
    """What was set (+) and cleared (-), and runs with what they hold now."""
    if name in ("eventinj", "exitintinfo"):
        return describe_event(now)
    if name == "exitcode":
        return describe_exitcode(now)
    if not layout:
        return ""
    parts = []
    named = 0
    for run in sorted((each for each in layout if not each.reserved), key=lambda each: each.low):
        named |= run.mask
        before, after = run.of(was), run.of(now)
        if before == after:
            continue
        if run.width == 1:
            parts.append(f"{'+' if after else '-'}{run.name}")
        else:
            parts.append(f"{run.name} {before:X}h to {after:X}h")
    for sign, mask in (("+", now & ~was & ~named), ("-", was & ~now & ~named)):
        if mask:
            parts.append(f"{sign}reserved {numbers_of(mask)}")
    return " ".join(parts)


def _filled(image: Vmcb, offset: int, width: int) -> bool:
    """Whether these bytes are an output field that still holds the pattern."""
    inside = any(start <= offset and offset + width <= start + size for start, size in OUTPUT_RANGES)
    return inside and bytes(image.data[offset : offset + width]) == bytes([OUTPUT_PATTERN]) * width
