"""Which bits of Fn8000_000A EDX a target offers L1, as its baselines say: a bit that is lost, or new, is a deviation.

A feature that is gone would else be a thousand skipped tests and a green run. In a baseline:

    [[offers]]
    bits = ["NP", "VGIF", "SVME_ADDR_CHK"]
    versions = ">=7.2"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.judge.baseline import BaselineError, in_range
from harness.names import near
from harness.svm.cpuid import svm_bit
from harness.svm.features import SVM_BITS, SvmBit

CLAUSE = "offers."
"""How the clause of such a deviation is called: offers.NP."""


@dataclass(frozen=True, slots=True)
class Offers:
    """The bits that a target offers at some versions, and the file that says so."""

    edx: int
    versions: str
    path: Path


@dataclass(frozen=True, slots=True)
class Difference:
    """One bit that is not as the baseline says."""

    bit: SvmBit
    offered: bool
    """Whether L1 sees it."""
    reason: str

    @property
    def clause(self) -> str:
        """A clause of its own."""
        return f"{CLAUSE}{self.bit.name}"


def read_offers(path: Path) -> list[Offers]:
    """What a baseline file says of bits, for whatever version; no file says nothing. Raises BaselineError."""
    if not path.exists():
        return []
    try:
        tables = tomllib.loads(path.read_text()).get("offers", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BaselineError(f"{path}: {error}") from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BaselineError(f"{path}: offers is a table of its own: [[offers]], then bits = [...]")
    return [_offers(table, path) for table in tables]


def offers_at(paths: Iterable[Path], version: tuple[int, ...]) -> Offers | None:
    """What the target must offer at that version: the first that speaks of it. None: no file does. BaselineError."""
    read = [offers for path in paths for offers in read_offers(path)]
    return next((offers for offers in read if in_range(offers.versions, version)), None)


def differences(offers: Offers, edx: int, without: Sequence[str] = ()) -> Iterator[Difference]:
    """The bits that L1 sees otherwise in `edx`. `without`: those that the run took away, by name."""
    taken = {svm_bit(name).bit for name in without}
    for bit in SVM_BITS:
        offered, wanted = bool(edx >> bit.bit & 1), bool(offers.edx >> bit.bit & 1)
        where = f"Fn8000_000A EDX[{bit.bit}] ({bit.name}) is {int(offered)}"
        if bit.bit in taken:
            if offered:
                yield Difference(bit, True, f"{where}, though --without took it away")
        elif offered != wanted:
            says = "offers it" if wanted else "does not offer it"
            yield Difference(bit, offered, f"{where}; {offers.path.name} says that the target {says}")


def names(edx: int) -> list[str]:
    """The bits of EDX by name, in order."""
    return [bit.name for bit in SVM_BITS if edx >> bit.bit & 1]


def _offers(table: dict[str, Any], path: Path) -> Offers:
    bits, versions = table.get("bits"), table.get("versions", "")
    if unknown := set(table) - {"bits", "versions"}:
        raise BaselineError(f"{path}: offers: unknown key {', '.join(sorted(unknown))}")
    if not isinstance(bits, list) or not all(isinstance(name, str) for name in bits):
        raise BaselineError(f"{path}: offers: bits must be a list of names")
    if not isinstance(versions, str):
        raise BaselineError(f"{path}: offers: versions must be a text")
    in_range(versions, ())
    edx = 0
    for name in bits:
        try:
            edx |= 1 << svm_bit(name).bit
        except KeyError:
            known = near(name, (bit.name for bit in SVM_BITS))
            raise BaselineError(f"{path}: offers: Fn8000_000A EDX has no bit named {name!r}{known}") from None
    return Offers(edx, versions, path)
