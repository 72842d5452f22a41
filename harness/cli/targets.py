"""`nsvm targets`: the places where the executor can run."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from harness.cli import machine
from harness.cli.command import STATE
from harness.cli.console import UserError
from harness.cli.debian import INSTALL

DESCRIPTIONS = {
    "qemu-tcg": "QEMU's emulated CPU (TCG): quick, the default; shared memory with the harness",
    "reference": "QEMU's emulated CPU with its SVM completed from the manual: all bits (synthetic)",
    "bochs": "the Bochs emulator: slower, another implementation of SVM to compare with",
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "targets",
        parents=[common],
        help="list the targets and whether they can run here",
        description="Lists each target with its version here, or what is missing; the hosts of the lab file, which are "
        "not asked (`nsvm doctor --target host:NAME` does); the simulated hosts that are built. Exit status 0.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Lists them."""
    programs = machine.programs_of(args)
    listed: list[dict[str, Any]] = []
    for name in (*machine.known_targets(), *machine.built_targets()):
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
    listed += _hosts() + _simulated(programs)
    if args.json:
        json.dump(listed, sys.stdout, indent=1)
        print()
        return 0
    width = max(len(entry["name"]) for entry in listed)
    for entry in listed:
        print(f"{entry['name']:{width}}  {entry['description']}")
        print(f"{'':{width}}  {_state(entry)}")
    print(f"{'ssh://...':{width}}  a host that no lab file has: ssh://USER@HOST?l0=kvm or ?l0=xen")
    return 0


def _state(entry: dict[str, Any]) -> str:
    if entry["available"] is None:
        return f"not asked; ./nsvm doctor --target {entry['name']}"
    if entry["available"]:
        return f"ready: {entry['version']}"
    if not any(missing["package"] for missing in entry["missing"]):
        return f"not ready: {'; '.join(missing['what'] for missing in entry['missing'])}"
    return _lacking(entry["missing"])


def _hosts() -> list[dict[str, Any]]:
    """The hosts of the lab file. Nobody connects to them."""
    from harness.hosts.lab import LabError, lab_path, read_lab

    try:
        path = lab_path()
        hosts = read_lab(path) if path else {}
    except LabError as error:
        raise UserError(str(error)) from None
    described = {
        name: f"{spec.l0} on {spec.address or spec.name}, guests under {spec.vmm} (of {path})"
        for name, spec in hosts.items()
    }
    return [
        {"name": f"host:{name}", "available": None, "version": "", "description": text, "missing": []}
        for name, text in described.items()
    ]


def _simulated(programs: machine.Programs) -> list[dict[str, Any]]:
    """The simulated hosts that are built; where none is, how one comes to be."""
    from harness.sim.state import built

    listed = []
    for name in built():
        target = machine.make_target(f"sim:{name}", STATE / "nothing-runs-here", programs)
        missing = target.missing()
        listed.append(
            {
                "name": f"sim:{name}",
                "available": not missing,
                "version": "" if missing else target.version(),
                "description": f"real {'Xen' if name.startswith('xen') else 'KVM'} on an emulated AMD machine",
                "missing": [{"what": m.what, "package": m.package, "why": m.why} for m in missing],
            }
        )
    if listed:
        return listed
    what = "not built: ./nsvm sim build kvm, ./nsvm sim build xen"
    described = "real KVM or Xen on an emulated AMD machine"
    lacking = [{"what": what, "package": "", "why": ""}]
    return [{"name": "sim:NAME", "available": False, "version": "", "description": described, "missing": lacking}]


def _lacking(missing: object) -> str:
    assert isinstance(missing, list)
    packages = sorted({package for entry in missing for package in entry["package"].split()})
    what = ", ".join(entry["what"] for entry in missing)
    return f"not ready: {what} missing; ./nsvm run installs it ({' '.join(INSTALL[:2])} {' '.join(packages)})"
