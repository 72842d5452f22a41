"""`nsvm sim`: simulated hosts, to try L0s without hardware."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.console import HarnessError, UserError, say
from harness.cli.debian import Need, ensure, missing_build_tools
from harness.cli.paths import LOG
from harness.text import visible

if TYPE_CHECKING:
    from harness.sim.error import SimError
    from harness.sim.state import State

SVM_LEAF = 0x8000000A
RESTORE_DEADLINE_S = 30.0
STOCK = "all of it as the suite has it"

_BUILD = """\
Fetches Debian packages (into .nsvm/sim, no package of this machine is touched, root is not needed), puts a minimal
system together, boots it on an emulated AMD machine and keeps its state, which `--target sim:NAME` restores within a
second. Builds again only if an ingredient has changed.

  ./nsvm sim build kvm                               sim:kvm, Linux 6.1
  ./nsvm sim build kvm --suite trixie                sim:kvm@6.12
  ./nsvm sim build xen                               sim:xen, Xen 4.17
  ./nsvm sim build kvm --name kvm-mine --kernel arch/x86/boot/bzImage --modules mods/lib/modules
  ./nsvm sim build xen --name xen-mine --xen xen/xen.gz
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "sim",
        parents=[common],
        help="build and use simulated hosts: KVM or Xen on an emulated AMD machine",
        description="Simulated hosts: a real Linux with KVM, or a real Xen, on an emulated AMD machine, reached by "
        "SSH as any host is. docs/sim.md has all of it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    _add_build(actions, common)
    listing = actions.add_parser("list", parents=[common], help="which there are, and whether they can be used")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(act=_list)
    for name, act, text in (
        ("remove", _remove, "remove one"),
        ("console", _console, "print what its kernel or Xen wrote to the serial port when it was built"),
        ("ssh", _ssh, "a shell, or a command, on one that is restored for it"),
    ):
        action = actions.add_parser(name, parents=[common], help=text)
        action.add_argument("name", metavar="NAME", help="as in sim:NAME")
        if name == "ssh":
            action.add_argument("command_line", metavar="CMD", nargs=argparse.REMAINDER, help="instead of a shell")
        action.set_defaults(act=act)
    for action in actions.choices.values():
        action.allow_abbrev = False
    parser.set_defaults(run=run)


def _add_build(actions: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    build = actions.add_parser(
        "build",
        parents=[common],
        help="make one, or see that it is up to date",
        description=_BUILD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = build.add_argument
    option("kind", choices=("kvm", "xen"), help="what runs on it")
    option("--suite", default="bookworm", help="the Debian suite its packages come from: bookworm, trixie, sid ...")
    option("--name", help="NAME of sim:NAME; default: kvm or xen, with @VERSION for a suite after bookworm")
    option("--qemu", metavar="PATH", help="the QEMU that emulates the machine; default: the one on PATH")
    option("--outer-suite", metavar="SUITE", help="or the QEMU of this Debian suite, fetched for it")
    option("--outer", choices=("reference",), help="or the reference machine (./nsvm reference build)")
    option("--kernel", metavar="FILE", type=Path, help="your own bzImage (xen: of dom0)")
    option("--modules", metavar="DIR", type=Path, help="where the modules (*.ko) of --kernel are; none: all built in")
    option("--xen", metavar="FILE", type=Path, help="your own hypervisor: xen or xen.gz from its build")
    option("--with-qemu", action="store_true", help="with the suite's QEMU in it: kvm for vmm=qemu, xen for vmm=hvm")
    option("--cpu", metavar="MODEL", help="QEMU's CPU model of the machine; default: max,+svm (kvm)")
    option("--memory-mib", metavar="N", type=int, help="its memory; default: 512 (kvm), 768 (xen), 1024 (with QEMU)")
    option(
        "--append",
        metavar="TEXT",
        default="",
        help="more arguments for the kernel, its modules too (kvm_amd.vgif=0), or for Xen",
    )
    option("--on-restore", metavar="CMD", default="", help="a shell command to run on it each time it is restored")
    option("--vmm-args", metavar="TEXT", default="", help="more arguments for its guests' VMM: '--quirks-off 800'")
    option("--force", action="store_true", help="build it even if nothing has changed")
    build.set_defaults(act=_build)


def run(args: argparse.Namespace) -> int:
    """Runs one action."""
    from harness.sim.error import SimError

    act: Callable[[argparse.Namespace], int] = args.act
    try:
        return act(args)
    except SimError as error:
        raise _for_people(error) from error
    except OSError as error:
        raise UserError(f"{error.filename or 'simulated host'}: {error.strerror}") from error


def _for_people(error: SimError) -> UserError | HarnessError:
    """One line; what the machine said goes to a file."""
    if not error.log:
        return UserError(str(error))
    LOG.mkdir(parents=True, exist_ok=True)
    path = LOG / "sim.log"
    path.write_text(error.log + "\n")
    return HarnessError(f"{error} (what it said: {path})")


def _build(args: argparse.Namespace) -> int:
    from harness.hosts.cpu_bits import of_edx
    from harness.sim.build import build
    from harness.sim.wanted import Wanted

    wanted = Wanted(
        kind=args.kind,
        suite=args.suite,
        name=args.name,
        outer_suite=args.outer_suite,
        **_outer(args),
        kernel=args.kernel,
        modules=args.modules,
        xen=args.xen,
        cpu=args.cpu,
        memory_mib=args.memory_mib,
        append=args.append,
        on_restore=args.on_restore,
        vmm_args=tuple(shlex.split(args.vmm_args)),
        with_qemu=args.with_qemu,
    )
    wanted.check()
    if not (wanted.qemu or args.outer_suite) and shutil.which("qemu-system-x86_64") is None:
        need = Need("qemu-system-x86_64", "qemu-system-x86", "emulates the machine of a simulated host")
        ensure([need], may_install=not args.no_install, log=LOG / "apt.log")
    state, new = build(wanted, say, force=args.force)
    if state.available and state.edx is None:
        state = _seen_by_guest(state)
    took = f" in {state.measured['build_s']:.0f} s" if new else ", nothing has changed"
    print(f"sim:{state.name}: {state.l0_version} on {state.qemu_version}, {state.size / 1e6:.0f} MB{took}")
    if state.edx is not None:
        print(f"its guests see Fn8000_000A EDX {state.edx:08x}: {' '.join(of_edx(state.edx))}")
    if not state.available:
        print(f"not available as a target: {state.reason}")
    return 0


def _outer(args: argparse.Namespace) -> dict[str, Any]:
    """Which QEMU, where Wanted has it as a path."""
    from harness.reference import store
    from harness.reference.error import ReferenceMachineError

    if args.outer is None:
        return {"qemu": args.qemu}
    if args.qemu or args.outer_suite:
        raise UserError("--outer, --qemu and --outer-suite all say which QEMU the outer machine is: give one")
    try:
        built = store.current()
    except ReferenceMachineError as error:
        raise UserError(str(error)) from None
    return {"qemu": str(built.program), "outer": args.outer, "outer_bits": built.bits}


def _seen_by_guest(state: State) -> State:
    """The state with the SVM features that a guest there is offered, where the executor can be started to ask."""
    from harness.cli import machine
    from harness.sim.state import load

    if missing_build_tools():
        return state
    try:
        machine.build_executor()
        machine.build_host_program()
        with machine.running(f"sim:{state.name}", machine.Programs(), use_lane=False) as now:
            leaves = now.hello.cpuid.leaves
    except HarnessError as error:
        say(f"warning: no guest was started there: {error}")
        return state
    if load(state.name).host_key != state.host_key:
        return state  # somebody has built it again meanwhile
    state = dataclasses.replace(state, edx=leaves[SVM_LEAF, 0][3] if (SVM_LEAF, 0) in leaves else 0)
    state.save()
    return state


def _list(args: argparse.Namespace) -> int:
    from harness.sim.error import SimError
    from harness.sim.outer_qemu import check_unchanged
    from harness.sim.state import built, load

    listed: list[dict[str, Any]] = []
    for name in built():
        entry: dict[str, Any] = {"name": f"sim:{name}", "available": False, "reason": ""}
        try:
            state = load(name)
            entry |= {"l0": state.l0_version, "outer": state.qemu_version, "built": state.built, "bytes": state.size}
            entry |= {"own": state.own}
            check_unchanged(state)
            entry |= {"available": state.available, "reason": state.reason}
        except SimError as error:
            entry["reason"] = str(error)
        listed.append(entry)
    if args.json:
        json.dump(listed, sys.stdout, indent=1)
        print()
        return 0
    if not listed:
        print("no simulated host is built; ./nsvm sim build kvm makes one")
    for entry in listed:
        what = f"{entry['l0']} on {entry['outer']}, {entry['bytes'] / 1e6:.0f} MB" if "l0" in entry else ""
        print(f"{entry['name']:14}  {what}")
        if "own" in entry:
            own = "; ".join(entry["own"]) or STOCK
            print(f"{'':14}  {visible(own)}")
        print(f"{'':14}  {'ready' if entry['available'] else 'not available: ' + entry['reason']}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from harness.sim.state import remove

    print(f"{args.name.removeprefix('sim:')}: removed, {remove(args.name) / 1e6:.0f} MB")
    return 0


def _console(args: argparse.Namespace) -> int:
    from harness.sim.state import load

    print((load(args.name).directory / "console.log").read_text(), end="")
    return 0


def _ssh(args: argparse.Namespace) -> int:
    from harness.sim.machine import OuterMachine
    from harness.sim.state import load

    state = load(args.name)
    program = shutil.which("ssh")
    if program is None:
        raise UserError("there is no ssh here: apt-get install openssh-client")
    machine = OuterMachine(state)
    try:
        spec = machine.start(RESTORE_DEADLINE_S)
        known_hosts = spec.known_hosts[0]
        command = [program, "-F", "none", "-p", str(spec.port), "-i", str(spec.identity_files[0])]
        command += ["-o", f'UserKnownHostsFile="{known_hosts}"', "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]
        command += [f"{spec.user}@{spec.address}", *args.command_line]
        return subprocess.run(command).returncode
    finally:
        machine.stop()
