"""The faults that the reference machine can be told to have: reference_machine/faults.toml, and the C made from it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.reference.error import ReferenceMachineError

PROJECT = Path(__file__).resolve().parents[2]
FILE_NAME = "faults.toml"
PATH = PROJECT / "reference_machine" / FILE_NAME
PROPERTY = "x-nsvm-fault"
"""The CPU property that has a fault's name."""
CODES_MAX = 4
VMCB_BYTES = 0x1000
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
_RULES = ("drops", "host_keeps", "guest_keeps", "loses", "trusts", "adds")


@dataclass(frozen=True)
class Fault:
    """One way to misbehave. `area`: the folder of suites/ that is there for it; `like`: the real bug it resembles.

    `rule`: what the machine needs no code for, as ("drops", (4CBh,)); None: code does it.
    """

    name: str
    area: str
    what: str
    like: str
    rule: tuple[str, tuple[int, ...]] | None = None

    @property
    def constant(self) -> str:
        """What the C code calls it."""
        return f"NSVM_FAULT_{self.name.upper().replace('-', '_')}"


def load(path: Path = PATH) -> tuple[Fault, ...]:
    """All faults, as they stand in the file. Raises ReferenceMachineError, which names what is wrong."""
    try:
        content = tomllib.loads(path.read_text())
        faults = tuple(_fault(entry) for entry in content.get("fault", ()))
    except (OSError, ValueError, TypeError) as error:
        raise ReferenceMachineError(f"{path.name}: {error}") from None
    names = [fault.name for fault in faults]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ReferenceMachineError(f"{path.name}: {twice[0]} is there twice")
    return faults


def find(name: str) -> Fault:
    """The fault of that name. Raises ReferenceMachineError."""
    for fault in load():
        if fault.name == name:
            return fault
    raise ReferenceMachineError(f"no fault is called {name[:60]!r}; ./nsvm reference faults lists them")


def files(faults: Sequence[Fault]) -> dict[str, str]:
    """The texts for the compiler, by their names: the enum, and the table of names and rules."""
    if not faults:
        return {}
    head = "/* SPDX-License-Identifier: GPL-2.0-or-later */\n/* Made from reference_machine/faults.toml. */\n"
    numbers = "".join(f"    {fault.constant},\n" for fault in faults)
    kinds = "".join(f"    NSVM_FAULT_{kind.upper()},\n" for kind in _RULES)
    return {
        "faults.h": f"{head}#ifndef NSVM_FAULTS_H\n#define NSVM_FAULTS_H\n\n"
        f"typedef enum NsvmFault {{\n    NSVM_FAULT_NONE,\n{numbers}}} NsvmFault;\n\n"
        f"typedef enum NsvmFaultKind {{\n    NSVM_FAULT_OF_CODE,\n{kinds}}} NsvmFaultKind;\n\n"
        "typedef struct NsvmFaultRule {\n    const char *name;\n    NsvmFaultKind kind;\n    unsigned offset;\n"
        f"    int bit;\n    unsigned adds_bytes;\n    int count;\n    uint32_t codes[{CODES_MAX}];\n"
        "} NsvmFaultRule;\n\n"
        "#endif\n",
        "faults.c.inc": f"{head}static const NsvmFaultRule nsvm_fault_rules[] = {{\n"
        + '    [NSVM_FAULT_NONE] = { .name = "" },\n'
        + "".join(f"    [{fault.constant}] = {{ {_row(fault)} }},\n" for fault in faults)
        + "};\n",
    }


def _row(fault: Fault) -> str:
    row = f'.name = "{fault.name}"'
    if fault.rule is None:
        return row
    kind, numbers = fault.rule
    row += f", .kind = NSVM_FAULT_{kind.upper()}"
    if kind == "loses":
        return row + f", .count = {len(numbers)}, .codes = {{ {', '.join(f'0x{code:x}' for code in numbers)} }}"
    row += f", .offset = 0x{numbers[0]:x}"
    if kind == "trusts":
        return row + f", .bit = {numbers[1]}"
    return row + (f", .adds_bytes = {numbers[1]}, .bit = {numbers[2]}" if kind == "adds" else "")


def _fault(entry: Mapping[str, Any]) -> Fault:
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"a fault's name is of small letters, digits and hyphens, not {name!r}")
    for key in ("area", "what", "like"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f"{name}: `{key}` is missing")
    rules = [key for key in entry if key not in ("name", "area", "what", "like")]
    if unknown := [key for key in rules if key not in _RULES]:
        raise ValueError(f"{name}: has {unknown[0]!r}; it may have {', '.join(_RULES)}")
    if len(rules) > 1:
        raise ValueError(f"{name}: has {' and '.join(rules)}; one is enough")
    rule = (rules[0], _numbers(name, rules[0], entry[rules[0]])) if rules else None
    return Fault(name, entry["area"], entry["what"], entry["like"], rule)


def _numbers(name: str, kind: str, value: Any) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, list) else (value,)
    wanted = {"loses": range(1, CODES_MAX + 1), "trusts": (2,), "adds": (3,)}.get(kind, (1,))
    if len(numbers) not in wanted or not all(type(number) is int for number in numbers):
        raise ValueError(f"{name}: {kind} = {value!r} has not the numbers that it needs")
    if kind != "loses" and not 0 <= numbers[0] < VMCB_BYTES:
        raise ValueError(f"{name}: {kind} = {value!r}: no field of a VMCB is there")
    return numbers
