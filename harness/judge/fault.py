"""An exception that L1 took: in words, and compared with the one that a test expects."""

from __future__ import annotations

from harness.judge.expect import Match, Row, Wanted, hexadecimal, stated
from harness.scenario.steps import Fault
from harness.svm.events import vector_name, vector_number
from harness.svm.exits import describe_error_code

_EVERY = (1 << 64) - 1
NO_FAULT = Wanted((0,), _EVERY, 8)
"""The exception row of a comparison that wants none: no fault is 0, one is 100h and its vector (see `fault_match`)."""


def fault_text(fault: Fault | None) -> str:
    """A fault for people: `#GP[0000h] at 0000_0000_0086_0003h`, `#PF[0002h RW] at ...`."""
    if fault is None:
        return "no fault"
    bits = "" if fault.error is None else describe_error_code(fault.vector, fault.error)
    error = "" if fault.error is None else f"[{fault.error:04X}h{bits and ' ' + bits}]"
    return f"{vector_name(fault.vector)}{error} at {hexadecimal(fault.rip, 16)}"


def fault_match(
    title: str, fault: Fault | None, vector: str | int, error: int | None, rip: int | None = None, of: object = None
) -> Match:
    """Compares a fault with the vector (`GP` or "#GP"), error code and RIP expected of it; `of` is what took it."""
    wanted = vector_number(vector) if isinstance(vector, str) else int(vector)
    got = vector_name(fault.vector) if fault else "none"
    held = fault is not None and fault.vector == wanted
    rows = [Row("exception", vector_name(wanted), got, "", held, Wanted((0x100 | wanted,), _EVERY, 8))]
    shown, bits = "none", ""
    if fault is not None and fault.error is not None:
        shown, bits = f"{fault.error:04X}h", describe_error_code(fault.vector, fault.error)
    expected = "none" if error is None else f"{error:04X}h"
    agrees = fault is not None and fault.error == error
    if error and not agrees and (said := describe_error_code(wanted, error)):
        bits = f"expected {said}{bits and f'; got {bits}'}"
    pushed = Wanted((0 if error is None else 1 << 32 | error,), _EVERY, 8)
    rows.append(Row("error code", expected, shown, bits, agrees, pushed))
    if rip is not None:
        came = hexadecimal(fault.rip, 16) if fault else "none"
        there = fault is not None and fault.rip == rip
        rows.append(Row("RIP of the fault", hexadecimal(rip, 16), came, "", there, Wanted((rip,), _EVERY, 8)))
    return stated(title, rows, of)
