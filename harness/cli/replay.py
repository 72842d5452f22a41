"""`nsvm replay`: judges the suites against a trace, without the machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli import run_folder
from harness.cli.console import EXIT_NEW, EXIT_OK, HarnessError, UserError
from harness.cli.debian import ensure, missing_build_tools
from harness.cli.paths import LOG
from harness.cli.plan import Plan
from harness.cli.signals import Signals
from harness.record import FILE_NAME, Run, load
from harness.text import line
from harness.trace.file import Header, Trace, TraceError, read_trace
from harness.trace.oracle import Oracle, differing, judge, named, read_settled
from harness.trace.replaying import SETTLED

WIDTH = 160
SHOWN_MAX = 12


@dataclass(frozen=True)
class Replayed:
    """One trace, replayed."""

    path: Path
    trace: Trace
    record: Run
    oracle: Oracle
    folder: Path


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "replay",
        parents=[common],
        help="judge the suites against a recorded trace, without the machine",
        usage="nsvm replay TRACE [paths or test ids ...] [options]",
        description="Gives each test the answers of the trace. Says which clauses the machine contradicts, and which "
        "of several right answers it gave. With --against, what two machines answer differently, and whether their "
        "baselines name it. Exit status 1 if there is a deviation that the recorded target's baseline does not name.",
    )
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a file that `nsvm record` wrote")
    parser.add_argument("paths", nargs="*", help="folders, files or test ids (default: suites)")
    parser.add_argument("--against", type=Path, metavar="TRACE", help="replay this one too, and compare")
    parser.add_argument("-k", metavar="EXPR", dest="keyword", help="only tests whose names match, as pytest's -k")
    parser.add_argument("-n", type=int, metavar="N", dest="workers", help="processes (default: one a core, at most 4)")
    parser.add_argument("--all", action="store_true", help="all that is settled or differs, not only the first ones")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replays, and says what came of it."""
    if args.workers is not None and args.workers < 0:
        raise UserError("-n: at least 0")
    traces = [args.trace, *([args.against] if args.against else [])]
    for path in traces:
        _read(path)  # complains before anything is done
    needs = [need for need in missing_build_tools() if need.package == "binutils"]
    ensure(needs, may_install=not args.no_install, log=LOG / "apt.log")
    options = ["--fresh-boot", "never", *(["-k", args.keyword] if args.keyword is not None else [])]
    paths = [run_folder.given_path(path) for path in args.paths] or ["suites"]
    with Signals() as signals:
        replayed = [_replay(path, paths, options, args.workers, signals) for path in traces]
    status = max(_status(one) for one in replayed)
    if args.json:
        json.dump([_as_json(one) for one in replayed], sys.stdout, indent=1)
        print()
    else:
        for one in replayed:
            _print(one, everything=args.all)
    if args.against:
        status = max(status, _compare(*replayed, everything=args.all, quiet=args.json))
    return status


def _read(path: Path) -> Trace:
    try:
        return read_trace(path)
    except TraceError as error:
        raise UserError(str(error)) from None


def _replay(path: Path, paths: list[str], options: list[str], workers: int | None, signals: Signals) -> Replayed:
    name = f"trace:{path.absolute()}"
    out = run_folder.make(run_folder.choose(None, [f"trace:{path.stem}"]), ours=True)
    status = Plan([name], paths, options, workers).carry_out(out, signals, brief=True)
    if signals.received or status not in (EXIT_OK, EXIT_NEW):
        raise HarnessError(f"replaying {path} did not end well (status {status}): {out}")
    trace, record = _read(path), load(out / FILE_NAME)
    return Replayed(path, trace, record, judge(trace, record, read_settled(out / SETTLED)), out)


def _status(one: Replayed) -> int:
    return EXIT_NEW if any(result.news in ("new", "mended") for result in one.record.results) else EXIT_OK


def about(header: Header) -> str:
    """A trace in one line."""
    nature = header.nature if header.silicon else f"{header.nature} ({header.why})"
    microcode = f", microcode {header.microcode}" if header.microcode else ""
    return f"{nature}; {header.cpu} stepping {header.stepping:X}h{microcode}; {header.l0}; recorded {header.recorded}"


def _print(one: Replayed, *, everything: bool) -> None:
    oracle = one.oracle
    most = None if everything else SHOWN_MAX
    print(line(f"\n{one.path}: {about(one.trace.header)}", WIDTH))
    new = [each for each in oracle.contradicted if each.new]
    print(
        f"  {len(oracle.agrees)} clauses agree; {len(oracle.contradicted)} are contradicted in some test, "
        f"{len(new)} of them in a way that no baseline names"
    )
    for each in new[:most]:
        print(line(f"    {each.clause} ({each.tests} tests): {each.first}", WIDTH))
    print(f"  settled, where any of several values is right: {len(oracle.settled)}")
    for row in oracle.settled[:most]:
        came = ", ".join(f"{value} ({count})" for value, count in row.came.most_common(4))
        print(line(f"    {row.clause} {row.row}: {row.allowed}: came {came}", WIDTH))
    if most is not None and len(oracle.settled) > most:
        print(f"    ... and {len(oracle.settled) - most} more (--all)")
    if oracle.unanswered:
        print(f"  {len(oracle.unanswered)} tests ask otherwise than when it was recorded, and are skipped")
    for test, before, now in oracle.otherwise[:most]:
        print(line(f"  judged otherwise than when it was recorded: {test}: {before} then, {now} now", WIDTH))


def _compare(left: Replayed, right: Replayed, *, everything: bool, quiet: bool) -> int:
    """What two machines answer differently; 1 if some of it is named by neither baseline."""
    found = differing(left.record.results, right.record.results)
    unnamed = [each for each in found if not (named(each[1], each[2]) and named(each[1], each[3]))]
    if not quiet:
        tests, clauses = len({each[0] for each in found}), len({each[1] for each in found})
        print(f"\n{left.path.name} against {right.path.name}: {tests} tests differ, in {clauses} clauses; "
              f"{len(unnamed)} of the {len(found)} differences are not named by a baseline")  # fmt: skip
        for test, clause, ours, theirs in unnamed if everything else unnamed[:SHOWN_MAX]:
            print(
                line(f"  {clause} {test}: {ours.verdict} {ours.reason} | {theirs.verdict} {theirs.reason}", 2 * WIDTH)
            )
    return EXIT_NEW if unnamed else EXIT_OK


def _as_json(one: Replayed) -> dict[str, Any]:
    oracle = one.oracle
    return {
        "trace": str(one.path),
        "nature": one.trace.header.nature,
        "cpu": one.trace.header.cpu,
        "agrees": oracle.agrees,
        "contradicted": [vars(each) for each in oracle.contradicted],
        "settled": [{**vars(each), "came": dict(each.came)} for each in oracle.settled],
        "unanswered": oracle.unanswered,
        "otherwise": oracle.otherwise,
        "folder": str(one.folder),
    }
