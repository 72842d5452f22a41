"""An exception that L1 took: in words, and compared with the one that a test expects."""

from __future__ import annotations

from harness.judge.expect import Match, Row, hexadecimal
from harness.scenario.steps import Fault
from harness.svm.events import vector_name, vector_number


def fault_text(fault: Fault | None) -> str:
    """A fault for people: `#GP[0000h] at 0000_0000_0086_0003h`."""
    if fault is None:
        return "no fault"
    error = "" if fault.error is None else f"[{fault.error:04X}h]"
    return f"{vector_name(fault.vector)}{error} at {hexadecimal(fault.rip, 16)}"


def fault_match(title: str, fault: Fault | None, vector: str, error: int | None, rip: int | None = None) -> Match:
    """Compares a fault with the vector, error code and RIP expected of it."""
    wanted = vector_number(vector)
    got = vector_name(fault.vector) if fault else "none"
    rows = [Row("exception", vector, got, "", fault is not None and fault.vector == wanted)]
    shown = "none" if fault is None or fault.error is None else f"{fault.error:04X}h"
    expected = "none" if error is None else f"{error:04X}h"
    rows.append(Row("error code", expected, shown, "", fault is not None and fault.error == error))
    if rip is not None:
        rows.append(
            Row(
                "RIP of the fault",
                hexadecimal(rip, 16),
                hexadecimal(fault.rip, 16) if fault else "none",
                "",
                fault is not None and fault.rip == rip,
            )
        )
    return Match(title, rows)
