"""`nsvm bench`: figures about the harness itself, and whether they are what they should be."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.cli import machine
from harness.cli.console import EXIT_HARNESS, EXIT_OK, HarnessError, UserError, say
from harness.cli.paths import ROOT
from harness.machine.leftovers import WorkFolder
from harness.text import line as one_line
from harness.version import VERSION


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "bench",
        parents=[common],
        help="measure the harness: boots, scenarios a second, the whole suite",
        description="Measures in one run: boot to hello against a trivial image, scenarios a second by each way "
        "of feeding, the machine's raw VMRUN rate, the whole suite with one and two workers and the harness's share "
        "of it, one test by nsvm run and by pytest alone, with --against the suites here and in another checkout, "
        "simulated hosts if they are built, and with --slow the suite at 115200 baud and on a simulated host. "
        "Prints each figure with its goal, reached or not. Exit status 0 when all was measured, reached or not; 3 "
        "if a measure failed.",
    )
    parser.add_argument("--target", default="qemu-tcg", metavar="NAME", help="default: qemu-tcg")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="MEASURE",
        help="only this one; may be repeated; 'list' names them",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often to boot (default: 5)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="also run the suites in this other checkout of nsvm, in turns with this one",
    )
    parser.add_argument(
        "--stock",
        type=Path,
        metavar="QEMU",
        help="stock QEMU to compare the reference machine with (default: the same program with x-nsvm=off)",
    )
    parser.add_argument("--slow", action="store_true", help="also measure what takes many minutes")
    parser.add_argument("--json", action="store_true", help="as JSON")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures, and prints each figure as it comes."""
    from harness import bench
    from harness.machine.base import Target, TargetError, TargetOptions

    if "list" in args.only:
        print("\n".join(bench.MEASURES))
        return EXIT_OK
    unknown = [name for name in args.only if name not in bench.MEASURES]
    if unknown:
        raise UserError(f"no measure is called {unknown[0]!r}; there are {', '.join(bench.MEASURES)}")
    if args.rounds < 1:
        raise UserError("--rounds: at least 1")
    if args.against is not None and not (args.against / "nsvm").is_file():
        raise UserError(f"--against {args.against}: no checkout of nsvm, it holds no ./nsvm")
    if args.stock is not None and not os.access(args.stock, os.X_OK):
        raise UserError(f"--stock {args.stock}: no program")
    machine.check_targets([args.target])
    programs = machine.programs_of(args)
    machine.prepare([args.target], programs, may_install=not args.no_install)
    chosen = {name: measure for name, measure in bench.MEASURES.items() if not args.only or name in args.only}
    failed = 0
    told: list[dict[str, Any]] = []
    with WorkFolder("bench") as workdir:
        targets = 0

        def make_target(**more: object) -> Target:
            nonlocal targets
            targets += 1
            own = workdir / f"target-{targets}"
            own.mkdir()
            return machine.make_target(args.target, own, programs, **more)

        def make_options() -> TargetOptions:
            return machine.target_options(workdir, programs)

        given = [
            word
            for option, path in (("--qemu", programs.qemu), ("--bochs", programs.bochs))
            if path
            for word in (option, path)
        ]
        context = bench.Bench(
            args.target,
            make_target,
            make_options,
            workdir,
            ROOT,
            rounds=args.rounds,
            slow=args.slow or bool(args.only),
            programs=given,
            against=None if args.against is None else args.against.resolve(),
            stock=None if args.stock is None else args.stock.absolute(),
        )
        try:
            with context.target_for_now() as target:
                version = target.version()
        except TargetError as error:
            raise HarnessError(f"{args.target}: {error}") from error
        load = [_load()]
        if not args.json:
            print(
                f"{args.target}: {version}; {os.cpu_count()} cores, {platform.machine()}; nsvm {VERSION}; "
                f"load average {load[0]:.2f}"
            )
        for name, measure in chosen.items():
            started = time.monotonic()
            try:
                figures = measure(context)
            except bench.NotMeasured as why:
                figures = [bench.Figure(name=name, value=None, unit="", detail=f"not measured: {why}")]
            except _failures() as error:
                figures = [bench.Figure(name=name, value=None, unit="", detail=f"failed: {one_line(str(error))}")]
                failed += 1
            for figure in figures:
                told.append({"measure": name, **figure.as_json()})
                if not args.json:
                    print(line(figure), flush=True)
            if args.json:
                say(f"{name}: {time.monotonic() - started:.1f} s")
        load.append(_load())
    if args.json:
        told_of = {"target": args.target, "version": version, "nsvm": VERSION, "cores": os.cpu_count()}
        json.dump({**told_of, "load_average": load, "figures": told}, sys.stdout, indent=1)
        print()
    else:
        print(f"load average at the end {load[1]:.2f}")
    return EXIT_HARNESS if failed else EXIT_OK


def _failures() -> tuple[type[Exception], ...]:
    """How a measure fails, one that can be had. The others are taken all the same."""
    from harness.bench import Failed
    from harness.link.link import LinkError
    from harness.link.session import ExecutorRefused, TargetLost
    from harness.machine.base import TargetError
    from harness.scenario.asm import AssemblyError
    from harness.scenario.steps import MalformedAnswer
    from harness.sim.error import SimError

    of_targets = (LinkError, TargetLost, TargetError, SimError, ExecutorRefused, MalformedAnswer)
    return (Failed, *of_targets, AssemblyError, subprocess.SubprocessError, OSError)


def _load() -> float:
    """What else this machine does: of the last minute."""
    return round(os.getloadavg()[0], 2)


def line(figure: Any) -> str:
    """One figure for a person."""
    if figure.value is None:
        return f"{figure.name:52} {'-':>10}       {figure.detail}"
    value = f"{figure.value:.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
    goal = ""
    if figure.goal is not None:
        bound = "at least" if figure.more_is_better else "at most"
        goal = f"{bound} {figure.goal:g} {figure.unit}: {'reached' if figure.reached else 'NOT reached'}"
    return f"{figure.name:52} {value:>10} {figure.unit:3}   {'; '.join(part for part in (goal, figure.detail) if part)}"
