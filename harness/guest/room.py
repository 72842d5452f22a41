"""Where the guests of one test lie: each has a VMCB, code and a stack of its own.

The first guest lies where every test's first guest lies, so that its addresses stay the same, whatever comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.scenario import places

_CODE_AT = 0x2000  # in a slot, behind the VMCB and the stack


@dataclass(frozen=True, slots=True)
class Place:
    """Physical addresses; `stack_top` is RSP, so in real mode an offset in the segment that `code_base` begins."""

    vmcb_pa: int
    code_base: int
    stack_top: int


class Room:
    """Gives out places, in the order in which the guests are made."""

    def __init__(self) -> None:
        self._guests = 0
        self._slot = places.GUESTS
        self._segment = places.LOW_GUEST

    def next(self, *, real: bool) -> Place:
        """The place of the next guest, real-mode ones in low memory. Raises MemoryError when there is no more."""
        slot = self._slot
        first = self._guests == 0
        self._guests += 1
        if not first:
            self._slot += places.GUEST_SLOT
            if self._slot > places.GUESTS_END:
                raise MemoryError(f"a test has room for {self._guests - 1} guests")
        vmcb_pa = places.VMCB if first else slot
        if real:
            segment = self._segment
            self._segment += places.LOW_SEGMENT
            if self._segment > places.LOW_GUESTS_END:
                raise MemoryError("a test has room for 6 guests in real mode")
            return Place(vmcb_pa, segment, places.LOW_STACK_TOP)
        if first:
            return Place(vmcb_pa, places.GUEST_CODE, places.GUEST_STACK_TOP)
        return Place(vmcb_pa, slot + _CODE_AT, slot + _CODE_AT)

    def fill(self, place: Place, size_bytes: int) -> None:
        """Says how long the code at the last place is: what does not fit one slot takes the next ones too.

        Raises MemoryError for code that fits no place.
        """
        if place.code_base < places.GUESTS:
            if size_bytes > places.GUEST_CODE_SIZE:
                raise MemoryError(f"{size_bytes} bytes of code are more than a guest has room for")
            return
        while self._slot < place.code_base + size_bytes:
            self._slot += places.GUEST_SLOT
        if self._slot > places.GUESTS_END:
            raise MemoryError("the test's guests have more code than there is room for")
