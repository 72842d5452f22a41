"""The other direction of `harness.scenario.steps`: answers encoded as the executor sends them, for replays that lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from harness.scenario.steps import (
    FAULT,
    RECORD,
    CodeAnswer,
    Fault,
    Record,
    VmrunAnswer,
    encode_registers,
    host_item_name,
)

_NUMBERS = {host_item_name(0, number): number for number in range(1, 64)}


def encode_record(record: Record) -> bytes:
    """An answer record with its header."""
    return RECORD.pack(record.op, record.status, record.tag, len(record.body)) + record.body


def encode_fault(fault: Fault) -> bytes:
    """One fault record."""
    return FAULT.pack(
        fault.vector, fault.phase, fault.error is not None, fault.cpu, fault.error or 0, fault.rip, fault.cr2,
        fault.dr6, fault.rflags, fault.rsp, fault.cs, 0, 0,
    )  # fmt: skip


def encode_vmrun(answer: VmrunAnswer) -> bytes:
    """The body of a VMRUN's answer."""
    mask, registers = encode_registers(answer.registers)
    counts = (len(answer.events), len(answer.differences), len(answer.host_changes))
    head = struct.pack("<IQHHHH", answer.result | answer.serial << 16, answer.tsc_cycles, mask, *counts)
    differences = b"".join(struct.pack("<HH", at, len(data)) + data for at, data in answer.differences)
    host = b"".join(
        struct.pack("<HHIQQ", kind, 0, number, before, after)
        for (kind, number), (before, after) in ((host_item(n), v) for n, v in answer.host_changes.items())
    )
    return head + registers + _faults(answer.events) + differences + host


def encode_code(answer: CodeAnswer) -> bytes:
    """The body of a CODE's answer."""
    mask, registers = encode_registers(answer.registers)
    fault = encode_fault(answer.fault) if answer.fault is not None else b""
    head = struct.pack("<HHIQ", mask, len(answer.events), answer.watchdog, answer.rflags)
    return fault + head + registers + _faults(answer.events)


def encode_window(events: Sequence[Fault]) -> bytes:
    """The body of a WINDOW's answer."""
    return struct.pack("<HH", len(events), 0) + _faults(events)


def encode_host_state(state: Mapping[str, int]) -> bytes:
    """The body of a HOST_STATE's answer."""
    items = b"".join(struct.pack("<HHIQ", *_spread(host_item(name)), value) for name, value in state.items())
    return struct.pack("<HH", len(state), 0) + items


def host_item(name: str) -> tuple[int, int]:
    """Kind and number of a host state item by its name; raises KeyError for one that does not exist."""
    return (1, int(name[4:], 16)) if name.startswith("MSR_") else (0, _NUMBERS[name])


def _spread(item: tuple[int, int]) -> tuple[int, int, int]:
    return item[0], 0, item[1]


def _faults(events: Sequence[Fault]) -> bytes:
    return b"".join(encode_fault(event) for event in events)
