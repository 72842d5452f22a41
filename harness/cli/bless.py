"""`nsvm bless`: turns what a run found into proposed edits of the baselines. Nobody's reason is made up: without
one nothing is proposed.

New deviations become entries that name the tests they were seen in, so that the day one is mended it is noticed.
Mended ones leave.
A baseline is edited as text: comments and the order of what is there stay.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from harness.cli.baseline_text import entries, replaced, string, texts
from harness.cli.bless_offers import edx_of, file_of_offers, is_offer, with_offers
from harness.cli.bless_values import lines_for, rows_of, with_values
from harness.cli.clauses import collect
from harness.cli.console import EXIT_OK, HarnessError, UserError, say
from harness.cli.paths import ROOT
from harness.cli.render import find_run
from harness.judge.baseline import Baseline, BaselineError, Deviation, in_range
from harness.judge.offers import CLAUSE
from harness.record import BAD_VERDICTS, FILE_NAME, load
from harness.summary import OF_BASELINE, Judged, Summary, TargetSummary, summarise

UNIVERSAL_TESTS_MAX = 20
"""A universal check that fires in more tests than this is blessed for all of them: it speaks of every VMRUN."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "bless",
        parents=[common],
        help="propose baseline entries for what a run found",
        description="Prints, as a diff, the edits that would make the run's new deviations known and forget its "
        "mended ones. "
        "Without --write nothing is changed. Exit status 0, or 2 without a reason.",
    )
    parser.add_argument("folder", metavar="RUN", help="a run folder, for example runs/latest")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why the target deviates: required")
    parser.add_argument(
        "--reference",
        default="",
        metavar="TEXT",
        help="where that can be read (default: the run and the target's version)",
    )
    parser.add_argument(
        "--clause",
        action="append",
        default=[],
        metavar="ID",
        help="only these clauses (* stands for anything); may be repeated",
    )
    parser.add_argument(
        "--versions", default="", metavar="RANGE", help='the target versions this holds for, for example ">=7.2,<8"'
    )
    parser.add_argument(
        "--into",
        default="",
        metavar="NAME",
        help="the baseline file, without .toml, where a target has several: kvm, or kvm-on-tcg for what comes from "
        "the emulated CPU below (default: L0's own)",
    )
    parser.add_argument(
        "--values",
        nargs="?",
        const="add",
        choices=("add", "anew"),
        help="no new entries: write into those that there are what the run's deviations came to, added to what they "
        "have, or (anew) in its place, patterns apart; no reason is needed",
    )
    parser.add_argument("--write", action="store_true", help="change the baseline files")
    parser.set_defaults(run=run, baselines=ROOT / "baselines")


@dataclass(frozen=True)
class Proposal:
    """One baseline file, before and after."""

    path: Path
    before: str
    after: str

    def diff(self) -> str:
        """The change as a unified diff."""
        name = os.path.relpath(self.path, ROOT)
        return "".join(
            difflib.unified_diff(
                self.before.splitlines(keepends=True), self.after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
            )
        )


def run(args: argparse.Namespace) -> int:
    """Proposes, and writes where asked to."""
    if not args.values and not args.reason.strip():
        raise UserError("bless needs --reason TEXT: why does the target deviate, and is the expectation right?")
    try:
        in_range(args.versions, ())
    except BaselineError as error:
        raise UserError(f"--versions: {error}") from None
    folder = find_run(args.folder)
    summary = summarise(load(folder / FILE_NAME))
    if summary.unfinished:
        say("this run was cut short: the proposal is made of what it recorded")
    try:
        collected = [] if args.values else [str(entry["test"]) for entry in collect()]
    except HarnessError:
        collected = []  # nothing is abbreviated then
    proposals = propose_values(summary, args) if args.values else propose(summary, args, collected)
    lost = sum(target.tally.lost for target in summary.targets)
    if lost:
        say(f"{lost} tests ended without a verdict (ERROR or MISS); those cannot be blessed")
    for name in _by_hand(summary, args.clause):
        say(f"{name} is mended as a whole: take its entry out by hand, or bound its versions")
    if not proposals:
        print(
            "Nothing to write: the run holds no deviation that is new or mended in a test"
            + (" of these clauses" if args.clause else "")
            + "."
        )
        return EXIT_OK
    for proposal in proposals:
        sys.stdout.write(proposal.diff())
    if args.write:
        for proposal in proposals:
            proposal.path.parent.mkdir(exist_ok=True)
            fresh = proposal.path.with_name(proposal.path.name + ".new")
            fresh.write_text(proposal.after)
            fresh.replace(proposal.path)
            print(f"wrote {os.path.relpath(proposal.path)}")
    else:
        print("Nothing is written yet; --write applies it.")
    return EXIT_OK


def propose(summary: Summary, args: argparse.Namespace, collected: Sequence[str]) -> list[Proposal]:
    """The edits, one for each target that needs any; raises UserError if a baseline cannot be read."""
    proposals = []
    for target in summary.targets:
        named, version = _baselines_of(target)
        into = args.into or named[0]
        if into not in named:
            raise UserError(f"--into {into}: the baselines of {target.name} are {', '.join(named)}")
        paths = [args.baselines / f"{name}.toml" for name in named]
        reference = args.reference.strip() or f"run {_run_id(summary)}, {version or target.name}"
        try:
            there = Baseline.load_all(paths, _numbers(version))
        except BaselineError as error:
            raise UserError(str(error)) from None
        # The run may be older than the baseline: what has become known since is not proposed again.
        new = [
            judged
            for judged in _found(summary, target.name, "new", args.clause)
            if not is_offer(judged.clause)
            and there.known(
                judged.clause,
                judged.outcome.test,
                judged.verdict,
                rows_of(judged),
                judged.outcome.result.reason,
                after_others=judged.after_others,
            )
            is None
        ]
        mended = _found(summary, target.name, "mended", args.clause)
        known = _found(summary, target.name, "known", [])
        edx = edx_of(summary, target) if _wanted(CLAUSE, args.clause) else None
        for path in paths:
            before = path.read_text() if path.exists() else ""
            after = _forget(before, path, mended, known) if mended and before else before
            if edx is not None and path == file_of_offers(paths, target.name):
                after = with_offers(after, path, edx, _numbers(version), args.versions)
            for key, found in _grouped(new if path.stem == into else ()).items():
                entry = _entry(
                    key, found, args.reason.strip(), reference, args.versions, summary, target.name, collected
                )
                after += ("\n" if after else "") + entry
            if after != before:
                _check(after, path)
                proposals.append(Proposal(path, before, after))
    return proposals


def propose_values(summary: Summary, args: argparse.Namespace) -> list[Proposal]:
    """The edits that write what came into the entries that are there; raises UserError if a baseline cannot be read."""
    proposals = []
    for target in summary.targets:
        named, version = _baselines_of(target)
        left = [
            judged
            for category in ("known", "new")
            for judged in _found(summary, target.name, category, args.clause)
            if judged.verdict in BAD_VERDICTS
        ]
        for path in (args.baselines / f"{name}.toml" for name in named):
            if not path.exists():
                continue
            before = path.read_text()
            try:
                after, left = with_values(before, path, left, _numbers(version), anew=args.values == "anew")
            except BaselineError as error:
                raise UserError(str(error)) from None
            if after != before:
                _check(after, path)
                proposals.append(Proposal(path, before, after))
        if left:
            say(f"{target.name}: {len(left)} deviations are in no entry; bless them with a reason")
    return proposals


def _baselines_of(target: TargetSummary) -> tuple[Sequence[str], str]:
    """The names of its baselines, the first its own, and its version."""
    named = next((m.info.baselines for m in target.machines if m.info.baselines), (target.name,))
    return named, next((machine.info.version for machine in target.machines if machine.info.version), "")


def _numbers(version: str) -> tuple[int, ...]:
    """(7, 2, 18) of "QEMU 7.2.18 (Debian ...)"."""
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def _run_id(summary: Summary) -> str:
    return summary.run.start.run_id if summary.run.start else "without an id"


def _found(summary: Summary, target: str, category: str, wanted: Sequence[str]) -> list[Judged]:
    """What was judged so on that target, of the clauses wanted."""
    return [
        judged
        for deviation in summary.deviations
        if deviation.target == target and deviation.category == category
        for judged in deviation.judged
        if _wanted(judged.clause, wanted)
    ]


def _wanted(clause: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(clause, pattern) for pattern in patterns)


def _by_hand(summary: Summary, wanted: Sequence[str]) -> list[str]:
    """Mended clauses whose entries are of all tests, or of a universal check in some: a person takes them out."""
    mended = (j for target in summary.targets for j in _found(summary, target.name, "mended", wanted))
    return list(dict.fromkeys(judged.clause for judged in mended if judged.outcome.test.startswith(OF_BASELINE)))


def _grouped(found: Iterable[Judged]) -> dict[tuple[str, str, bool], list[Judged]]:
    """By clause, verdict, and whether it shows after others only; in order."""
    groups: dict[tuple[str, str, bool], list[Judged]] = {}
    for judged in found:
        if judged.verdict in BAD_VERDICTS:
            groups.setdefault((judged.clause, judged.verdict, judged.after_others), []).append(judged)
    return groups


def _entry(
    key: tuple[str, str, bool],
    found: Sequence[Judged],
    reason: str,
    reference: str,
    versions: str,
    summary: Summary,
    target: str,
    collected: Sequence[str],
) -> str:
    """The text of one entry."""
    clause, verdict, after_others = key
    tests = list(dict.fromkeys(_name(judged.outcome.test) for judged in found))
    universal = all(judged.universal for judged in found)
    lines = ["[[deviation]]", f"clause = {string(clause)}"]
    if not (universal and len(tests) > UNIVERSAL_TESTS_MAX):
        ran = {_name(outcome.test) for outcome in summary.outcomes if outcome.target == target}
        lines.append(texts("tests", abbreviate(tests, ran, collected)))
    if verdict != "FAIL":
        lines.append(f"verdict = {string(verdict)}")
    lines += lines_for(found)
    lines += ["after_others = true"] * after_others
    lines += [f"reason = {string(reason)}", f"reference = {string(reference)}"]
    if versions:
        lines.append(f"versions = {string(versions)}")
    return "\n".join(lines) + "\n"


def abbreviate(tests: Sequence[str], ran: set[str], collected: Sequence[str]) -> list[str]:
    """`test_x[*]` for a function of which every parameter set there is ran and is in `tests`; the others one by one."""
    there: dict[str, set[str]] = {}
    for node in collected:
        name = _name(node)
        there.setdefault(name.partition("[")[0], set()).add(name)
    short: list[str] = []
    for test in tests:
        function, bracket, _ = test.partition("[")
        siblings = there.get(function, set())
        whole = bool(bracket) and len(siblings) > 1 and siblings <= ran and siblings <= set(tests)
        short.append(f"{function}[*]" if whole else test)
    return list(dict.fromkeys(short))


def _name(node: str) -> str:
    """A test id as baselines have it: what is behind the '::'."""
    return node.rpartition("::")[2]


def _forget(before: str, path: Path, mended: Sequence[Judged], known: Sequence[Judged]) -> str:
    """The baseline without what is mended: entries that name mended tests keep only those that still deviate or
    did not run.
    """
    lines = before.splitlines(keepends=True)
    for start, end, deviation in reversed(entries(before, path)):
        gone = {_name(j.outcome.test) for j in mended if deviation.covers(j.clause, j.outcome.test)}
        if not gone or not deviation.tests:
            continue
        still = {_name(j.outcome.test) for j in known if deviation.covers(j.clause, j.outcome.test)}
        kept: list[str] = []
        for pattern in deviation.tests:
            alone = Deviation(deviation.clause, "", "", tests=(pattern,))
            if any(alone.covers(deviation.clause, "::" + test) for test in gone):
                kept += sorted(test for test in still if alone.covers(deviation.clause, "::" + test))
            else:
                kept.append(pattern)
        if kept:
            lines[start:end] = [replaced("".join(lines[start:end]), "tests", texts("tests", list(dict.fromkeys(kept))))]
        else:
            del lines[start:end]
    return "".join(lines)


def _check(text: str, path: Path) -> None:
    """A proposal must be a baseline; if not, that is our fault."""
    with tempfile.TemporaryDirectory(prefix="nsvm-") as folder:
        fresh = Path(folder) / path.name
        fresh.write_text(text)
        try:
            Baseline.load(fresh, ())
        except BaselineError as error:
            raise HarnessError(f"the proposal is no baseline: {error}") from None
