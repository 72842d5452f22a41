"""The executor's hello (docs/link-protocol.md, *HELLO*): who it is, where its memory lies, what its CPU offers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.svm.cpuid import Cpuid

CPUID_MAX = 256  # leaves; the executor sends about twenty

_FIXED = struct.Struct("<HBB16sQQQIIQIQIQIQIQII")
_LEAF = struct.Struct("<6I")


@dataclass(frozen=True)
class Hello:
    """One hello. Addresses are L1-physical, sizes in bytes. `cause` is 0 for the one said at boot."""

    version: int
    cause: int
    cpu_count: int
    build_id: bytes
    boot_id: int
    arena_base: int
    arena_size: int
    frame_body_max: int
    answer_max: int
    lane_request_pa: int
    lane_request_size: int
    lane_answer_pa: int
    lane_answer_size: int
    low_base: int
    low_size: int
    long_tables_pa: int
    boot_kind: int
    bundle_pa: int
    bundle_size: int
    cpuid: Cpuid

    @staticmethod
    def parse(body: bytes) -> Hello:
        """Reads the body of a HELLO. Raises ValueError for what cannot be one."""
        if len(body) < _FIXED.size:
            raise ValueError(f"a hello of {len(body)} bytes")
        *fixed, count = _FIXED.unpack_from(body)
        if count > CPUID_MAX or len(body) != _FIXED.size + count * _LEAF.size:
            raise ValueError(f"a hello of {len(body)} bytes with {count} CPUID leaves")
        leaves = {(leaf, sub): (a, b, c, d) for leaf, sub, a, b, c, d in _LEAF.iter_unpack(body[_FIXED.size :])}
        hello = Hello(*(*fixed, Cpuid(leaves)))
        if hello.version != 1 or hello.boot_id == 0 or hello.frame_body_max < 64 or hello.answer_max == 0:
            raise ValueError(f"a hello of version {hello.version}, boot {hello.boot_id:x}, body {hello.frame_body_max}")
        return hello

    def pack(self) -> bytes:
        """The body again, as a stand-in executor sends it."""
        fixed = (
            self.version, self.cause, self.cpu_count, self.build_id, self.boot_id, self.arena_base, self.arena_size,
            self.frame_body_max, self.answer_max, self.lane_request_pa, self.lane_request_size, self.lane_answer_pa,
            self.lane_answer_size, self.low_base, self.low_size, self.long_tables_pa, self.boot_kind, self.bundle_pa,
            self.bundle_size,
        )  # fmt: skip
        leaves = b"".join(_LEAF.pack(*key, *values) for key, values in self.cpuid.leaves.items())
        return _FIXED.pack(*fixed, len(self.cpuid.leaves)) + leaves
