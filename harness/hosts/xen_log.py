"""Xen's log, which can be read (`xl dmesg`) but not followed: read when it is wanted, and compared with the last time.

It is the user's log: it is never cleared (`xl dmesg -c`), so what is new must be found in the ring's text.
"""

from __future__ import annotations

from typing import Final

READ: Final = "xl dmesg | tail -c 262144"
KEPT: Final = 256 * 1024
PROBE: Final = 64


class XenLog:
    """Remembers the ring and says what came since."""

    def __init__(self) -> None:
        self._seen: bytes | None = None

    def news(self, ring: bytes) -> tuple[bytes, bool]:
        """What is new in the ring, and whether something in between may have been lost. At first nothing is new.

        A ring without text is one that could not be read: it is passed over, or all the old lines would be news when it
        can be read again.
        """
        if not ring:
            return b"", False
        ring = ring[-KEPT:]
        seen, self._seen = self._seen, ring
        if seen is None:
            return b"", False
        shared = overlap(seen, ring)
        return ring[shared:], not shared


def overlap(old: bytes, new: bytes) -> int:
    """The length of the longest end of `old` with which `new` begins."""
    probe = new[:PROBE]
    at = old.find(probe) if len(probe) == PROBE else -1
    while at >= 0:
        if new.startswith(old[at:]):
            return len(old) - at
        at = old.find(probe, at + 1)
    for size in range(min(len(old), len(new), PROBE - 1), 0, -1):
        if new.startswith(old[-size:]):
            return size
    return 0
