"""`nsvm targets`: the places where the executor can run."""

from __future__ import annotations

import argparse
import json
import sys

from harness.cli import machine
from harness.cli.command import STATE
from harness.cli.debian import INSTALL

DESCRIPTIONS = {
    "qemu-tcg": "QEMU's emulated CPU (TCG): quick, the default; shared memory with the harness",
    "bochs": "the Bochs emulator: slower, another implementation of SVM to compare with",
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "targets",
        parents=[common],
        help="list the targets and whether they can run here",
        description="Lists each target with its version here, or what is missing. Exit status 0.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Lists them."""
    programs = machine.programs_of(args)
    listed = []
    for name in machine.known_targets():
        target = machine.make_target(name, STATE / "nothing-runs-here", programs)
        missing = target.missing()
        listed.append(
            {
                "name": name,
                "available": not missing,
                "version": "" if missing else target.version(),
                "description": DESCRIPTIONS.get(name, ""),
                "missing": [{"what": m.what, "package": m.package, "why": m.why} for m in missing],
            }
        )
    if args.json:
        json.dump(listed, sys.stdout, indent=1)
        print()
        return 0
    for entry in listed:
        print(f"{entry['name']:10}  {entry['description']}")
        print(f"{'':10}  {'ready: ' + str(entry['version']) if entry['available'] else _lacking(entry['missing'])}")
    return 0


def _lacking(missing: object) -> str:
    assert isinstance(missing, list)
    packages = sorted({package for entry in missing for package in entry["package"].split()})
    what = ", ".join(entry["what"] for entry in missing)
    return f"not ready: {what} missing; ./nsvm run installs it ({' '.join(INSTALL[:2])} {' '.join(packages)})"
