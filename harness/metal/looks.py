"""What comes over a console before the executor, or in its place, put into words."""

from __future__ import annotations

import re

from harness.text import printable

KEPT_BYTES = 16 * 1024
GARBAGE_MIN_BYTES = 64
GARBAGE_SHARE = 0.3

WAITING = re.compile(
    rb"press (?:<?f1>?|any key|<?enter>?|y)\b[^\r\n]{0,60}|strike (?:the )?f1[^\r\n]{0,60}"
    rb"|cmos[^\r\n]{0,40}(?:bad|invalid)[^\r\n]{0,40}",
    re.IGNORECASE,
)
LOADER = (
    (re.compile(rb"no bootable device|no boot device|operating system not found|boot failed[^\r\n]{0,60}", re.I),
     "the firmware finds nothing to boot"),
    (re.compile(rb"grub rescue>|grub>", re.I), 
     "GRUB waits at its prompt: it did not find its grub.cfg, or what that names"),
    (re.compile(rb"iPXE>|could not boot:?[^\r\n]{0,60}|PXE-E[0-9]+[^\r\n]{0,60}", re.I), "network boot failed"),
    (re.compile(rb"secure boot[^\r\n]{0,60}|verification failed[^\r\n]{0,60}|access denied", re.I),
     "Secure Boot does not let it start: switch it off in the firmware"),
)  # fmt: skip


class Looks:
    """Keeps the end of what came; says what it looks like."""

    def __init__(self, own_os: str) -> None:
        self._own_os = own_os.encode()
        self._seen = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """More of it."""
        self._seen += data
        self.total += len(data)
        del self._seen[:-KEPT_BYTES]

    def forget(self) -> None:
        """A new boot begins."""
        self._seen.clear()
        self.total = 0

    @property
    def own_os_is_up(self) -> bool:
        """Whether the machine's own OS says that it is there."""
        return bool(self._own_os) and self._own_os in self._seen

    def in_words(self, baud: int) -> str:
        """What stands in the executor's way, as far as the console shows it."""
        if self.own_os_is_up:
            return "its own operating system came up instead: the boot order does not begin with ours"
        if found := WAITING.search(self._seen):
            return f"the firmware waits for a key: {printable(found[0], 100)}"
        for pattern, meaning in LOADER:
            if found := pattern.search(self._seen):
                return f"{meaning} ({printable(found[0], 80).strip()})"
        if not self.total:
            return "nothing came over the console: is it the right line, and is the firmware's console redirection on?"
        odd = sum(byte > 0x7E or (byte < 0x20 and byte not in b"\0\t\n\r\x1b\x07\x08\x0c") for byte in self._seen)
        if len(self._seen) >= GARBAGE_MIN_BYTES and odd > GARBAGE_SHARE * len(self._seen):
            return f"what comes over the console is garbage: is {baud} the right baud rate?"
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return f"the console says no more than: {lines[-1][:120]}" if lines else "the console shows no text"

    def text(self) -> str:
        """The end of it, printable."""
        return printable(bytes(self._seen).replace(b"\0", b""), KEPT_BYTES)
