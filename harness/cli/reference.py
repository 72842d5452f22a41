"""`nsvm reference`: the emulated AMD CPU that has all eight bits, built from QEMU's source and reference_machine/."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.bootstrap import BootstrapError, ensure_venv
from harness.cli.console import HarnessError, UserError, say
from harness.cli.debian import Need, ensure
from harness.cli.paths import LOG, ROOT
from harness.cli.steps_bar import StepsBar

if TYPE_CHECKING:
    from harness.reference.build import Tools
    from harness.reference.recipe import Recipe
    from harness.reference.store import Built
    from harness.sim.state import State

REQUIREMENTS = "requirements/reference.txt"
CPU_MINUTES = 4
DOWNLOAD_MB, NEEDED_MB, KEPT_MB = 65, 700, 12
_INCLUDE = "/usr/include"
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
NEEDS = (
    (("gcc", "clang"), Need("gcc", "gcc libc6-dev", "compiles QEMU")),
    (("ninja",), Need("ninja", "ninja-build", "runs QEMU's build")),
    (("make",), Need("make", "make", "is asked for by QEMU's configure")),
    (("patch",), Need("patch", "patch", "applies Debian's patches to QEMU's source")),
    (("pkg-config",), Need("pkg-config", "pkg-config", "tells QEMU's configure where the libraries are")),
    ((f"{_INCLUDE}/stdio.h",), Need("the C library's headers", "libc6-dev", "QEMU is written in C")),
    ((f"{_INCLUDE}/glib-2.0/glib.h",), Need("GLib's headers", "libglib2.0-dev", "QEMU is built on it")),
    ((f"{_INCLUDE}/slirp/libslirp.h",), Need("libslirp", "libslirp-dev", "the network of simulated hosts on it")),
    ((f"{_INCLUDE}/zlib.h",), Need("zlib's headers", "zlib1g-dev", "QEMU is built on it")),
)

_BUILD = f"""\
Fetches QEMU's source package from Debian (checked against the archive's signature), puts the changes of
reference_machine/ into it, and builds the x86-64 system emulator with the least it needs. Takes {CPU_MINUTES} minutes
of one CPU's time, downloads {DOWNLOAD_MB} MB, needs {NEEDED_MB} MB of disk while it builds, keeps {KEPT_MB} MB, below
.nsvm/reference ($NSVM_REFERENCE: elsewhere). Done again only if reference_machine/ has changed.

  ./nsvm reference build                 then: ./nsvm run --target reference
  ./nsvm reference build --tree DIR      for those who change it: keeps source and build in DIR, and builds again
                                         what has changed within seconds; prints the path of the program
"""

JUDGES = ("kvm", "xen", "branches")
_JUDGE = """\
Software that was not written for the reference machine runs on it:

  kvm       Linux with kvm_amd, 6.1 and 6.12: as L0 it runs our L1 as its guest, and that one guests of its own
  xen       Xen 4.17 and 4.20, the same
  branches  in that Linux: block stepping by ptrace (DEBUGCTL.BTF), branch records through /dev/cpu/0/msr

The hosts are built first, where they are not there (./nsvm sim build ... --outer reference). Exit status 1 if a judge
finds something wrong.
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "reference",
        parents=[common],
        help="build the reference machine: an emulated AMD CPU with all SVM features",
        description="The reference machine is QEMU's emulated CPU with its SVM completed from AMD's manual. "
        "reference_machine/README.md has all of it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    build = actions.add_parser(
        "build",
        parents=[common],
        help="build it, or see that it is up to date",
        description=_BUILD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("--tree", metavar="DIR", type=Path, help="keep source and build in DIR, for quick rebuilds")
    build.add_argument("--force", action="store_true", help="build it even if nothing has changed")
    build.add_argument("--jobs", metavar="N", type=int, help="compilers at a time; default: one a CPU")
    build.set_defaults(act=_build)
    for name, act, text in (
        ("list", _list, "which are built"),
        ("faults", _faults, "the ways in which it can be told to misbehave (./nsvm run --fault NAME)"),
        ("path", _path, "print the path of its QEMU"),
        ("remove", _remove, "remove one, or all that are built"),
    ):
        action = actions.add_parser(name, parents=[common], help=text)
        if name in ("list", "faults"):
            action.add_argument("--json", action="store_true", help="as JSON")
        if name == "remove":
            action.add_argument("key", metavar="KEY", nargs="?", help="as `list` shows it; default: all")
        action.set_defaults(act=act)
    judge = actions.add_parser(
        "judge",
        parents=[common],
        help="have Linux with KVM, and Xen, judge it",
        description=_JUDGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    judge.add_argument("judges", metavar="JUDGE", nargs="*", help=f"{', '.join(JUDGES)}; default: all")
    judge.set_defaults(act=_judge)
    for action in actions.choices.values():
        action.allow_abbrev = False
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    from harness.reference.error import ReferenceMachineError
    from harness.sim.error import SimError

    act: Callable[[argparse.Namespace], int] = args.act
    try:
        return act(args)
    except (ReferenceMachineError, SimError, BootstrapError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{error.filename or 'reference machine'}: {error.strerror}") from error


def missing_needs() -> list[Need]:
    """What a build lacks on this machine."""
    from harness.cli.debian import missing_of

    return missing_of(NEEDS)


def _build(args: argparse.Namespace) -> int:
    from harness.reference import build, recipe, store

    wanted = recipe.load()
    if args.jobs is not None and args.jobs < 1:
        raise UserError("--jobs must be 1 or more")
    if args.tree is None and not args.force and (there := store.find(wanted.key)):
        return _tell(there, new=False)
    ensure(missing_needs(), may_install=not args.no_install, log=LOG / "apt.log")
    if still := missing_needs():
        raise HarnessError(f"{still[0].what} is still missing after installing {still[0].package}")
    LOG.mkdir(parents=True, exist_ok=True)
    jobs = args.jobs or len(os.sched_getaffinity(0))
    python = ensure_venv("meson-venv", REQUIREMENTS)
    with StepsBar("compiling QEMU") as bar:
        tools = build.Tools(python, LOG, say, bar.update, jobs)
        if args.tree is not None:
            return _build_tree(args.tree.absolute(), wanted, tools)
        minutes = max(1, round(CPU_MINUTES / jobs))
        say(
            f"building the reference machine: some {minutes} min with {jobs} compilers, {DOWNLOAD_MB} MB to download, "
            f"{NEEDED_MB} MB of disk while it builds, {KEPT_MB} MB kept"
        )
        there, new = build.build(wanted, tools, force=args.force)
    return _tell(there, new=new)


def _build_tree(directory: Path, wanted: Recipe, tools: Tools) -> int:
    from harness.reference import build, compile

    build.make(directory, wanted, tools)
    print(directory / "build" / compile.TARGET)
    return 0


def _tell(there: Built, *, new: bool) -> int:
    took = f"in {there.measured['build_s']:.0f} s" if new else "nothing has changed"
    print(f"reference machine {there.key}: {there.source}, {there.size / 1e6:.0f} MB, {took}")
    print(f"features: {', '.join(there.made_of['features'])}; bits: {', '.join(there.bits)}")
    return 0


def _judge(args: argparse.Namespace) -> int:
    from harness.reference import judge, store

    for name in args.judges:
        if name not in JUDGES:
            raise UserError(f"no judge is called {name!r}; there are {', '.join(JUDGES)}")
    store.current()
    wanted = args.judges or list(JUDGES)
    failed = 0
    for kind in ("kvm", "xen"):
        if kind not in wanted and (kind != "kvm" or "branches" not in wanted):
            continue
        for suite in judge.SUITES:
            if _nsvm("sim", "build", kind, "--suite", suite, "--outer", judge.OUTER) != 0:
                print(f"FAIL  {kind} of {suite}: it does not come up")
                failed += 1
        for state in judge.hosts(kind):
            if kind in wanted:
                failed += not _judged_by_guests(state)
            if kind == "kvm" and "branches" in wanted:
                said = judge.branches(state, print)
                failed += not _told(said.status == 0, f"branch records and block stepping, {state.l0_version}")
    return 1 if failed else 0


def _judged_by_guests(state: State) -> bool:
    """Whether guests, and guests of guests, live on that L0 as they should."""
    from harness.reference import judge

    if not _told(state.available, f"{state.l0_version} starts guests that have SVM {state.reason}".strip()):
        return False
    for line in judge.what_l0_uses(state).lines:
        print(f"      {line}")
    status = _nsvm("run", "--target", f"sim:{state.name}", *judge.PARTS)
    return _told(status == 0, f"guests of guests on {state.l0_version}: {' '.join(judge.PARTS)}")


def _told(good: bool, what: str) -> bool:
    print(f"{'PASS' if good else 'FAIL'}  {what}", flush=True)
    return good


def _nsvm(*words: str) -> int:
    print(f"$ ./nsvm {' '.join(words)}", flush=True)
    return subprocess.run([str(ROOT / "nsvm"), *words], check=False, stdin=subprocess.DEVNULL).returncode


def _list(args: argparse.Namespace) -> int:
    from harness.reference import recipe, store

    now = recipe.load().key
    listed: list[dict[str, Any]] = [
        {"key": one.key, "current": one.key == now, "source": one.source, "built": one.built}
        | {"program": str(one.program), "bits": list(one.bits), "bytes": one.size}
        for one in store.everything()
    ]
    if args.json:
        json.dump(listed, sys.stdout, indent=1)
        print()
        return 0
    for one in listed:
        mark = "" if one["current"] else " (of an older reference_machine/)"
        print(f"{one['key']}  {one['source']}, {one['bytes'] / 1e6:.0f} MB, built {one['built']}{mark}")
    if not any(one["current"] for one in listed):
        print(f"reference_machine/ as it stands is not built; {store.BUILD_COMMAND} builds it")
    return 0


def _faults(args: argparse.Namespace) -> int:
    from harness.reference import faults

    known = faults.load()
    if args.json:
        json.dump(
            [{"name": f.name, "area": f.area, "what": f.what, "like": f.like} for f in known], sys.stdout, indent=1
        )
        print()
        return 0
    for fault in sorted(known, key=lambda fault: fault.area):
        print(f"{fault.area:14} {fault.name:34} {fault.what} As {fault.like}.")
    print(f"{len(known)} faults")
    return 0


def _path(args: argparse.Namespace) -> int:
    from harness.reference import store

    print(store.current().program)
    return 0


def _remove(args: argparse.Namespace) -> int:
    from harness.reference import store

    builds = store.everything()
    chosen = [one for one in builds if args.key in (None, one.key)]
    if not chosen:
        known = ", ".join(one.key for one in builds) or "none"
        raise UserError(f"no reference machine {args.key or ''} is built: there is {known}".replace("  ", " "))
    for one in chosen:
        print(f"{one.key}: removed, {store.remove(one) / 1e6:.0f} MB")
    return 0
