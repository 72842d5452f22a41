"""Policies: what L0 is to offer L1 in CPUID Fn8000_000A EDX, from a TOML file that a person writes (policies/).

    title = "..."
    source = "..."
    unnamed = "noted"             # bits that no [[bit]] names: open, noted (told, not judged) or withheld

    [[bit]]
    name = "NRIPS"
    host = "required"             # of the CPU that L0 runs on: required or optional
    guest = "provided"            # to L1: provided, withheld, open
    why = "..."

`silicon = "silicon.csv"` in place of the bits: what the processor has whose family, model and stepping L1 sees.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.names import nearest
from harness.svm.cpuid import svm_bit
from harness.svm.features import SVM_BITS, SvmBit

HOST = ("required", "optional")
GUEST = ("provided", "withheld", "noted", "open")
UNNAMED = ("open", "noted", "withheld")
_KEYS = {"title", "source", "unnamed", "bit", "silicon"}


Signature = tuple[int, int | None, int | None]
"""Family, model, stepping; None: any."""


class PolicyError(Exception):
    """A policy, or its data, that cannot be read or makes no sense. One line for people."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is wanted of one bit."""

    bit: SvmBit
    host: str
    guest: str
    why: str


@dataclass(frozen=True, slots=True)
class Dump:
    """What processors of one signature report. Several may be of one signature: microcode decides."""

    family: int
    model: int
    stepping: int
    edx: int
    nasid: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as its file states it."""

    name: str
    title: str
    source: str
    rules: tuple[Rule, ...]
    dumps: tuple[Dump, ...] = ()

    def rules_for(self, cpu: Signature) -> tuple[tuple[Rule, ...], str]:
        """A rule for each of the 32 bits on that processor, and which dumps they are from ("": the policy names bits).

        Where no dump is of that stepping, those of its model count, or of its family. Raises PolicyError if none is.
        """
        return _of_silicon(self.dumps, cpu) if self.dumps else (self.rules, "")


@dataclass(frozen=True, slots=True)
class Row:
    """One bit judged. `host` is None where L0's CPU was not asked or has no name for the bit."""

    rule: Rule
    host: bool | None
    guest: bool
    verdict: str
    deviates: bool


def policy_names(folder: Path) -> list[str]:
    """The policies there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_policy(name: str, folder: Path) -> Policy:
    """The policy of that name in `folder`, or in the file that `name` is (it ends in .toml). Raises PolicyError."""
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        known = policy_names(folder)
        if name.endswith(".toml"):
            raise PolicyError(f"{name}: no such file")
        raise PolicyError(f"no policy is called {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None
    if unknown := set(table) - _KEYS:
        raise PolicyError(f"{path}: unknown key {', '.join(sorted(unknown))}")
    for key in ("title", "source"):
        if not isinstance(table.get(key), str):
            raise PolicyError(f"{path}: {key} must be a text")
    if "silicon" in table:
        if {"bit", "unnamed"} & set(table):
            raise PolicyError(f"{path}: a policy has silicon, or bits of its own, and not both")
        return Policy(path.stem, table["title"], table["source"], (), read_silicon(path.parent / str(table["silicon"])))
    return Policy(path.stem, table["title"], table["source"], _rules(table, path))


def read_silicon(path: Path) -> tuple[Dump, ...]:
    """What processors report, a line each kind. Raises PolicyError."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return tuple(
            Dump(
                int(row["family"], 16), int(row["model"], 16), int(row["stepping"], 16), int(row["edx"], 16),
                int(row["nasid"]),
            )
            for row in rows
        )  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from None
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise PolicyError(f"{path}: a line is not family,model,stepping,edx,nasid,ecx,dumps ({error})") from None


def judge(rules: Sequence[Rule], edx: int, host: Mapping[str, bool]) -> list[Row]:
    """Each bit of `edx`, as L1 sees it, against its rule. `host`: the bits that L0's CPU is known to have or lack."""
    return [_row(rule, host.get(rule.bit.name), bool(edx >> rule.bit.bit & 1)) for rule in rules]


def _row(rule: Rule, host: bool | None, guest: bool) -> Row:
    verdict, deviates = "ok", True
    if rule.guest == "provided" and not guest:
        verdict = "MISSING in L1"
    elif rule.guest == "withheld" and guest:
        verdict = "OFFERED to L1"
    else:
        deviates = False
        if rule.guest == "noted" and guest:
            verdict = "beyond the policy"
        elif rule.guest in ("noted", "open"):
            verdict = "-"
    if rule.host == "required" and host is False:
        lacks = "L0's CPU LACKS it"
        verdict, deviates = (f"{lacks}; {verdict}" if deviates else lacks), True
    return Row(rule, host, guest, verdict, deviates)


def _rules(table: Mapping[str, Any], path: Path) -> tuple[Rule, ...]:
    unnamed = table.get("unnamed", "open")
    if unnamed not in UNNAMED:
        raise PolicyError(f"{path}: unnamed is {', '.join(UNNAMED[:-1])} or {UNNAMED[-1]}, not {unnamed!r}")
    named: dict[int, Rule] = {}
    bits = table.get("bit", [])
    if not isinstance(bits, list) or not all(isinstance(each, dict) for each in bits):
        raise PolicyError(f"{path}: each bit is a table of its own: [[bit]], then name = ...")
    for each in bits:
        rule = _rule(each, path)
        if rule.bit.bit in named:
            raise PolicyError(f"{path}: {rule.bit.name} is there twice")
        named[rule.bit.bit] = rule
    return tuple(named.get(bit.bit) or Rule(bit, "optional", unnamed, "") for bit in SVM_BITS)


def _rule(table: Mapping[str, Any], path: Path) -> Rule:
    name = table.get("name")
    try:
        bit = svm_bit(str(name))
    except KeyError:
        names = [each.name for each in SVM_BITS]
        raise PolicyError(f"{path}: Fn8000_000A EDX has no bit named {name!r}{nearest(str(name), names)}") from None
    if unknown := set(table) - {"name", "host", "guest", "why"}:
        raise PolicyError(f"{path}: {name}: unknown key {', '.join(sorted(unknown))}")
    host, guest, why = table.get("host", "optional"), table.get("guest"), table.get("why", "")
    for key, value, allowed in (("host", host, HOST), ("guest", guest, GUEST)):
        if value not in allowed:
            raise PolicyError(f"{path}: {name}: {key} is one of {', '.join(allowed)}, not {value!r}")
    if not isinstance(why, str):
        raise PolicyError(f"{path}: {name}: why must be a text")
    return Rule(bit, str(host), str(guest), why)


def _of_silicon(dumps: Sequence[Dump], cpu: Signature) -> tuple[tuple[Rule, ...], str]:
    """Bits that all dumps have are provided, those that none has are withheld, the others are open."""
    family, model, stepping = cpu
    same, named = [dump for dump in dumps if dump.family == family], f"family {family:02X}h"
    if not same:
        known = ", ".join(f"{each:02X}h" for each in sorted({dump.family for dump in dumps}))
        raise PolicyError(f"no dump is of a processor of family {family:02X}h; there are {known}")
    for told, closer in (
        (f"model {model or 0:02X}h", [dump for dump in same if dump.model == model]),
        (f"stepping {stepping or 0:X}h", [dump for dump in same if (dump.model, dump.stepping) == (model, stepping)]),
    ):
        if not closer:
            break
        same, named = closer, f"{named} {told}"
    rules = []
    for bit in SVM_BITS:
        count = sum(dump.edx >> bit.bit & 1 for dump in same)
        guest, why = "withheld" if not count else "provided", ""
        if 0 < count < len(same):
            guest, why = "open", "some of these processors have it and some do not"
        elif bit.reserved and count:
            guest, why = "open", "these processors show it, and the manual does not say what it is"
        rules.append(Rule(bit, "optional", guest, why))
    values = " or ".join(f"{edx:08X}" for edx in sorted({dump.edx for dump in same}))
    asids = " or ".join(str(nasid) for nasid in sorted({dump.nasid for dump in same}))
    return tuple(rules), f"{named}: EDX {values}, NASID {asids}"
