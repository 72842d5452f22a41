"""The kernel's log of a host, followed over a channel.

`cat /dev/kmsg` first: it is there with busybox too, it follows, and each record has a number, by which one that comes
twice is dropped and lost ones are counted, and a facility, which user space cannot set to the kernel's own: what a
process writes into the log is kept, and never taken for the kernel's word. A user who may not open it may be in a group
that reads the journal. The shell waits on its stdin meanwhile, so that nothing stays when the connection dies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.text import printable

FOLLOW: Final = r"""
LC_ALL=C; export LC_ALL; exec 3<&0 2>/dev/null
b= u= x=; { read -r b </proc/sys/kernel/random/boot_id; read -r u _ </proc/uptime; read -r x </proc/sys/kernel/tainted
} 2>/dev/null
echo "!boot $b"; echo "!taint $x"; echo "!up [$u]"
if ( : </dev/kmsg ) 2>/dev/null; then
 echo "!last $(dmesg 2>/dev/null | tail -n 1 | cut -c 1-40)"
 cat /dev/kmsg & c=$!
elif [ -n "$(journalctl -q -k -n 1 -o cat 2>/dev/null)" ]; then
 echo "!journal"
 journalctl -q -k -f -n 0 -o short-monotonic & c=$!
else
 echo "!none $(cat /dev/kmsg 2>&1 | head -n 1 | cut -c 1-200)"; exit 1
fi
( while read -r _ <&3; do :; done; kill $c 2>/dev/null ) & k=$!
wait $c
kill $k 2>/dev/null
"""
"""Shell text that prints a header and then the log for ever; it ends when its stdin does."""

LAST_WORDS: Final = (
    "for d in /sys/fs/pstore /var/lib/systemd/pstore; do find $d -type f -name 'dmesg*' -mmin -30; done | sort | "
    'head -n 8 | while read -r f; do echo "$f:"; head -c 16384 $f; echo; done | head -c 49152'
)
"""Shell text that prints what firmware kept of the log of a kernel that died in the last half hour, where it can."""

RECORD_MAX: Final = 16 * 1024
KERN: Final = 0

_RECORD = re.compile(rb"(\d{1,6}),(\d{1,20}),(\d{1,20}),[^;]*;(.*)", re.DOTALL)
_JOURNAL = re.compile(rb"\[ *(\d{1,10})\.(\d{6})\] \S+ (kernel|[^ :]+): (.*)", re.DOTALL)
_TIME = re.compile(r"(?:<\d+>)?\[ *(\d{1,10})\.(\d{1,6})\]")


@dataclass(frozen=True)
class Entry:
    """One record. `number` is None where the log has none; `kernel`: the kernel said it, and nobody else."""

    number: int | None
    time_us: int
    kernel: bool
    said: tuple[str, ...]

    def lines(self) -> list[str]:
        """As `dmesg` shows it; user space is named."""
        who = "" if self.kernel else "(user space) "
        return [f"[{self.time_us // 1_000_000:5d}.{self.time_us % 1_000_000:06d}] {who}{line}" for line in self.said]


@dataclass(frozen=True)
class Header:
    """A line of the header: `boot` (the host's boot id), `taint`, `up` (now), `last` (the last line that was there
    already), `journal`, `none`.
    """

    what: str
    text: str

    def time_us(self) -> int | None:
        """The time at the beginning of its text."""
        found = _TIME.match(self.text)
        return int(found[1]) * 1_000_000 + int(found[2].ljust(6, "0")) if found else None


class Parser:
    """Turns the channel's bytes into entries. Bounded whatever comes."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skipping = False
        self._journal = False

    def feed(self, data: bytes) -> Iterator[Entry | Header]:
        """What the bytes complete."""
        self._rest += data
        while (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            if not self._skipping:
                yield from self._line(line)
            self._skipping = False
        if len(self._rest) > RECORD_MAX:
            if not self._skipping:
                yield from self._line(bytes(self._rest[:RECORD_MAX]))
            self._skipping = True
            self._rest.clear()

    def _line(self, line: bytes) -> Iterator[Entry | Header]:
        if line.startswith(b"!"):
            what, _, text = line[1:].partition(b" ")
            self._journal |= what == b"journal"
            yield Header(printable(what, 20), printable(text, 400))
        elif self._journal:
            if found := _JOURNAL.fullmatch(line):
                at = int(found[1]) * 1_000_000 + int(found[2])
                yield Entry(None, at, found[3] == b"kernel", (printable(found[4], RECORD_MAX),))
        elif found := _RECORD.fullmatch(line):
            kernel = int(found[1]) >> 3 == KERN
            parts = found[4].split(rb"\x0a")  # how the kernel writes a line's end; it escapes a backslash itself
            said = tuple(printable(part, RECORD_MAX) for part in parts)
            yield Entry(int(found[2]), int(found[3]), kernel, said)
