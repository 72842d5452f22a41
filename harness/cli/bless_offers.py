"""`nsvm bless` and the bits that a target offers: a run's become those that its baseline asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from harness.judge.baseline import in_range
from harness.judge.offers import CLAUSE, names, offers_at, read_offers
from harness.summary import Summary, TargetSummary

_HEADER = re.compile(r"^\s*\[\[", re.MULTILINE)
_OFFERS = re.compile(r"^[ \t]*\[\[[ \t]*offers[ \t]*\]\][^\n]*\n(?:(?![ \t]*\[).*\n)*", re.MULTILINE)


def is_offer(clause: str) -> bool:
    """Whether a clause is of a bit that is offered otherwise than the baseline says."""
    return clause.startswith(CLAUSE)


def file_of_offers(paths: Sequence[Path], target: str) -> Path | None:
    """The baseline, of several, that says what is offered: the one that does so now, or that of what lies lowest.

    None where there is L0's own alone, and so for every machine that L0 runs on.
    """
    says = next((path for path in paths if read_offers(path)), None)
    return says or (paths[-1] if len(paths) > 1 or paths[-1].stem == target else None)


def edx_of(summary: Summary, target: TargetSummary) -> int | None:
    """What L1 saw of Fn8000_000A EDX: None where that is not known, or was another for each worker, or was asked for.

    `--cpu` and `--without` make a machine of which a baseline does not speak.
    """
    scope = summary.run.scopes.get(target.name)
    if scope is not None and scope.options:
        return None
    seen = {machine.info.edx for machine in target.machines if machine.info.booted}
    return seen.pop() if len(seen) == 1 else None


def with_offers(text: str, path: Path, edx: int, version: tuple[int, ...], versions: str) -> str:
    """A baseline's text that asks for these bits at that version; as it was where it does already.

    `versions`: for which versions, where nothing was said yet.
    """
    there = offers_at([path], version)
    if there is not None and there.edx == edx:
        return text
    range_ = versions or (there.versions if there is not None else "")
    entry = f"[[offers]]\nbits = {json.dumps(names(edx))}\n" + (f"versions = {json.dumps(range_)}\n" if range_ else "")
    tables = read_offers(path)
    found = list(_OFFERS.finditer(text))
    if there is not None and len(found) == len(tables):
        number = next(n for n, table in enumerate(tables) if in_range(table.versions, version))
        rest = text[found[number].end() :]
        return text[: found[number].start()] + entry + ("\n" if rest.strip() else "") + rest
    first = _HEADER.search(text)
    at = first.start() if first else len(text)
    before = text[:at]
    return (
        before + ("\n" if before and not before.endswith("\n\n") else "") + entry + ("\n" if first else "") + text[at:]
    )
