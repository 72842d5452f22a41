"""`nsvm record`: runs the suites and keeps every answer in a trace."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import machine, run_folder
from harness.cli.console import EXIT_OK, HarnessError, UserError, say
from harness.cli.host_run import password_for
from harness.cli.paths import STATE
from harness.cli.plan import Plan
from harness.cli.signals import Signals
from harness.record import FILE_NAME, Run, load
from harness.run.options import OptionError, RunOptions
from harness.version import VERSION

if TYPE_CHECKING:
    from harness.trace.file import Header

FACTS_DEADLINE_S = 30.0
ANSWERS = "answers.jsonl"
DEVIATES = ("FAIL", "CRASH", "HANG")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "record",
        parents=[common],
        help="run the suites on a target and keep every answer in a trace",
        description="Runs the suites, and writes every answer into a file, with CPU family, model, stepping, "
        "microcode and firmware, and whether a processor itself has answered (silicon) or not (synthetic). "
        "Exit status 0 if the trace is written, whatever deviates; 3 if tests could not be run.",
    )
    parser.add_argument("paths", nargs="*", help="folders, files or test ids (default: suites)")
    parser.add_argument("--target", default="qemu-tcg", metavar="NAME", help="default: qemu-tcg")
    parser.add_argument("-o", dest="trace", type=Path, required=True, metavar="TRACE", help="the file to write")
    parser.add_argument("-k", metavar="EXPR", dest="keyword", help="only tests whose names match, as pytest's -k")
    parser.add_argument("-n", type=int, metavar="N", dest="workers", help="workers, as for `nsvm run`")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Asks the machine what it is, runs the suites, and packs what came."""
    from harness.trace.answers import AnswersError, read_answers
    from harness.trace.file import TraceError, write_trace

    (name,) = machine.check_targets([args.target])
    if args.workers is not None and args.workers < 0:
        raise UserError("-n: at least 0")
    if name.startswith("trace:"):
        raise UserError(f"{name} is a trace already; record on a machine")
    if args.trace.is_dir():
        raise UserError(f"-o {args.trace}: is a folder; name a file, as {args.trace}/{args.target}.nsvmtrace")
    programs = machine.programs_of(args)
    try:
        options = RunOptions(qemu=programs.qemu, bochs=programs.bochs).words()
    except OptionError as error:
        raise UserError(str(error)) from None
    paths = [run_folder.given_path(path) for path in args.paths] or ["suites"]
    machine.prepare([name], programs, may_install=not args.no_install)
    environment = password_for(name)
    header = _header(name, programs)
    STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="record-", dir=STATE) as work:
        answers = Path(work) / ANSWERS
        options += ["--nsvm-answers", str(answers), *(["-k", args.keyword] if args.keyword is not None else [])]
        out = run_folder.make(run_folder.choose(None, [name]), ours=True)
        plan = Plan([name], paths, options, args.workers, environments={name: environment})
        with Signals() as signals:
            status = plan.carry_out(out, signals, brief=True)
        if signals.received or status not in (0, 1):
            raise HarnessError(
                f"recording on {name} did not end well (status {status}), and no trace is written: {out}"
            )
        record = load(out / FILE_NAME)
        try:
            size = write_trace(args.trace, _with_run(header, record), read_answers(answers))
        except (TraceError, AnswersError) as error:
            raise HarnessError(str(error)) from None
    results = Counter(result.verdict for result in record.results)
    told = ", ".join(f"{count} {verdict}" for verdict, count in results.most_common())
    say(f"{args.trace}: {size / 1024:.0f} KiB, {header.nature} ({header.why}), {header.cpu} stepping "
        f"{header.stepping:X}h, microcode {header.microcode or 'not told'}, "
        f"firmware {header.firmware or 'not told'}; {told}")  # fmt: skip
    return EXIT_OK


def _header(name: str, programs: machine.Programs) -> Header:
    """What the machine says of itself."""
    from harness.scenario.asm import Assembler
    from harness.trace.facts import ask_facts, nature_of
    from harness.trace.file import Header

    with machine.running(name, programs) as now:
        cpuid = now.hello.cpuid
        facts = ask_facts(lambda asked: machine.ask(now, asked, FACTS_DEADLINE_S), Assembler(STATE / "cache" / "asm"))
        emulated = bool(getattr(now.target, "emulated", False))
        nature, why = nature_of(name, cpuid, facts, emulated=emulated)
        return Header(
            target=name,
            nature=nature,
            why=why,
            vendor=cpuid.vendor,
            family=cpuid.family,
            model=cpuid.model,
            stepping=cpuid.stepping,
            name=cpuid.brand,
            microcode=facts.microcode,
            firmware=facts.firmware,
            board=facts.board,
            edx=cpuid.svm_bits,
            l0=now.target.version(),
            l0_version=now.target.version_tuple,
            baselines=now.target.baselines,
            executor=now.hello.build_id.hex(),
        )


def _with_run(header: Header, record: Run) -> Header:
    """With what the run adds: when, by which nsvm, which part of the suites, and which clauses it speaks of."""
    commit = (record.start.nsvm.commit or "")[:12] if record.start else ""
    scope = record.scopes.get(header.target)
    return replace(
        header,
        nsvm=f"{VERSION} {commit}".strip(),
        recorded=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        chosen_by=tuple(scope.chosen_by) if scope else (),
        witnesses=witnesses_of(record),
    )


def witnesses_of(record: Run) -> dict[str, tuple[int, int]]:
    """Of each clause that was asked, in how many tests it agreed and in how many it did not; of a check that is made
    after every VMRUN, in how many of these.
    """
    found: dict[str, list[int]] = {}
    for result in record.results:
        for check in result.checks:
            if not check.universal and (check.verdict == "PASS" or check.verdict in DEVIATES):
                found.setdefault(check.clause, [0, 0])[check.verdict in DEVIATES] += 1
    for each in record.universals:
        if each.checked:
            counts = found.setdefault(each.clause, [0, 0])
            counts[0] += each.checked - each.failed
            counts[1] += each.failed
    return {clause: (yes, no) for clause, (yes, no) in sorted(found.items())}
