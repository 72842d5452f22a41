"""`nsvm doctor`: what is here, and what each missing thing would unlock."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

from harness.cli import machine
from harness.cli.console import EXIT_OK, EXIT_USAGE, UserError
from harness.cli.debian import Need, install_command, missing_build_tools, packages_of
from harness.cli.paths import ROOT, STATE
from harness.hosts.finding import HostFinding

VERSION_DEADLINE_S = 10


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "doctor",
        parents=[common],
        help="say what is here and what each missing thing would unlock",
        description="Looks at this machine and installs nothing. Exit status 0 if `nsvm run` can run on its "
        "default target as it is, 2 if something for that is missing. With --target, looks at a host instead, changes "
        "nothing there, and boots the executor to see what L1 is offered.",
    )
    parser.add_argument(
        "--target", metavar="NAME", help="what to look at: host:NAME, ssh://USER@HOST?l0=kvm, sim:NAME, metal:NAME"
    )
    parser.add_argument(
        "--no-boot", action="store_true", help="with --target: start no guest there; boot nothing on a bare machine"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Looks, and tells."""
    programs = machine.programs_of(args)
    if args.no_boot and args.target is None:
        raise UserError("--no-boot goes with --target: without one no guest is started")
    if args.target is not None:
        if args.target not in (*machine.known_targets(), *machine.built_targets()):
            machine.check_targets([args.target])
            if args.target.startswith("metal:"):
                from harness.cli import doctor_metal

                return doctor_metal.run(args.target, programs, boot=not args.no_boot, as_json=args.json)
            if args.target.startswith("trace:"):
                raise UserError(f"{args.target} is a trace: it needs nothing but itself")
            from harness.cli import doctor_host

            return doctor_host.run(args.target, programs, boot=not args.no_boot, as_json=args.json)
        raise UserError(f"{args.target} is not a host; ./nsvm doctor says what it needs here")
    build = missing_build_tools()
    findings = [
        HostFinding(True, "Python", f"{platform.python_version()}, in {os.path.relpath(sys.prefix, ROOT)}"),
        *(_tool(tool, why) for tool, why in _TOOLS),
    ]
    needs: list[Need] = []
    for name in machine.known_targets():
        target = machine.make_target(name, STATE / "nothing-runs-here", programs)
        missing = target.missing()
        lacking = [Need(m.what, m.package, m.why) for m in missing]
        needs += lacking
        if missing:
            what = ", ".join(f"{m.what} (package {m.package})" for m in missing)
            told = f"{what}; {'; '.join(dict.fromkeys(m.why for m in missing))}"
            findings.append(HostFinding(False, f"target {name}", told))
        elif build:
            findings.append(
                HostFinding(
                    False,
                    f"target {name}",
                    f"{target.version()}; but the executor cannot be built without the tools above",
                )
            )
        else:
            findings.append(HostFinding(True, f"target {name}", target.version()))
    findings += [_to_build(name, programs) for name in machine.built_targets()]
    findings.append(_executor())
    findings.append(_installs())
    everything = [*build, *needs]
    mend = install_command(packages_of(everything), root=os.geteuid() == 0) if everything else ""
    default = machine.missing_for("qemu-tcg", programs) if "qemu-tcg" in machine.known_targets() else []
    ready = not build and not default
    if args.json:
        listed = [{"ok": f.ok, "what": f.what, "detail": f.detail, "mend": f.mend} for f in findings]
        json.dump({"target": None, "ready": ready, "findings": listed, "mend": mend}, sys.stdout, indent=1)
        print()
        return EXIT_OK if ready else EXIT_USAGE
    for finding in findings:
        print(f"{finding.mark:8} {finding.what:18} {finding.detail}")
    if mend:
        print()
        print(f"To have all of it: {mend}")
    return EXIT_OK if ready else EXIT_USAGE


_TOOLS = (
    ("gcc", "compiles the executor"),
    ("clang", "a second compiler for the executor, used by ./nsvm test where it is there"),
    ("make", "builds the executor"),
    ("as", "assembles the guests of the scenarios"),
    ("ld", "links the executor"),
    ("objcopy", "makes the executor's boot images"),
    ("git", "puts the commit into the record of a run"),
)
_NEEDED = ("make", "as", "ld", "objcopy")


def _tool(tool: str, why: str) -> HostFinding:
    path = shutil.which(tool)
    if path:
        return HostFinding(True, tool, f"{_version([path, '--version'])} ({why})")
    needed = tool in _NEEDED or (tool == "gcc" and not shutil.which("clang"))
    return HostFinding(False if needed else None, tool, f"not here: {why}")


def _version(command: Sequence[str]) -> str:
    """The version a tool prints of itself."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERSION_DEADLINE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not answer: {error}"
    first = (done.stdout.splitlines() or [""])[0]
    found = re.search(r"\d+(\.\d+)+", re.sub(r"\([^)]*\)", "", first))
    return found[0] if found else first


def _to_build(name: str, programs: machine.Programs) -> HostFinding:
    """A target that nsvm builds itself: nothing is wrong where it is not."""
    target = machine.make_target(name, STATE / "nothing-runs-here", programs)
    missing = target.missing()
    lacks = "; ".join(f"{item.what} ({item.why})" for item in missing)
    return HostFinding(None if missing else True, f"target {name}", lacks or target.version())


def _executor() -> HostFinding:
    path = machine.EXECUTOR_ELF
    if not path.exists():
        return HostFinding(None, "executor", "not built yet; ./nsvm run builds it")
    return HostFinding(True, "executor", f"{path.relative_to(ROOT)}, {path.stat().st_size} bytes")


def _installs() -> HostFinding:
    if shutil.which("apt-get") is None:
        return HostFinding(
            None, "installing", "no apt-get here: what is missing must come from your system's package manager"
        )
    if os.geteuid() != 0:
        return HostFinding(
            None, "installing", "not root: nsvm prints the command for what is missing and leaves it to you"
        )
    return HostFinding(
        True,
        "installing",
        "root, with apt-get: nsvm installs what a command lacks, saying so first (--no-install: never)",
    )
