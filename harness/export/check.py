"""What a reproducer compares: one value each, held against a set (docs/link-protocol.md, *Reproducers*)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from harness.judge.expect import Wanted

BEFORE_ALL = 0xFFFF
NAME_MAX = 200
_HEAD = struct.Struct("<HHBBBBQQQ")


class Source(IntEnum):
    """Where the value is taken from."""

    MEMORY = 0
    VMRUN_REGISTER = 1
    FAULT = 2
    FAULT_ERROR = 3
    FAULT_RIP = 4
    HOST = 5
    CODE_REGISTER = 6
    MSR = 7
    CPUID = 8


@dataclass(frozen=True)
class Check:
    """One comparison. `request` and `record` say behind which step; `where` is an address, a register's number, or
    another place; `otherwise` is the value where the answer says that nothing changed.
    """

    name: str
    source: Source
    wanted: Wanted
    request: int = BEFORE_ALL
    record: int = 0
    where: int = 0
    otherwise: int = 0

    def encode(self) -> bytes:
        """As the payload reads it."""
        wanted = self.wanted
        head = _HEAD.pack(
            self.request, self.record, self.source, wanted.width_bytes, wanted.negated, len(wanted.values),
            self.where, self.otherwise, wanted.mask,
        )  # fmt: skip
        name = self.name.encode("ascii", "replace")[:NAME_MAX]
        return head + struct.pack(f"<{len(wanted.values)}Q", *wanted.values) + bytes([len(name)]) + name

    def text(self) -> str:
        """For people: `exitcode is 81h`."""
        digits = 2 * self.wanted.width_bytes
        values = [f"{value:0{digits}X}h" for value in self.wanted.values]
        is_ = "is not" if self.wanted.negated else "is"
        told = f"{self.name} {is_} {values[0] if len(values) == 1 else 'any of ' + ', '.join(values)}"
        every = (1 << 8 * self.wanted.width_bytes) - 1
        return told if self.wanted.mask == every else f"{told} in the bits of {self.wanted.mask:0{digits}X}h"
