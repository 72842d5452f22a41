"""`nsvm shell`: a live L1 at a prompt."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from harness.cli import machine
from harness.cli.console import EXIT_OK, HarnessError
from harness.cli.paths import ROOT, STATE
from harness.link.session import Session, TargetLost
from harness.machine.base import TargetError, release
from harness.machine.leftovers import WorkFolder

HISTORY = STATE / "shell_history"
HISTORY_LINES = 1000


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "shell",
        parents=[common],
        help="a live L1: set VMCB fields, run L2, see what changed, save it as a test",
        description="Boots the executor on a target and takes commands: set, intercept, code, run, resume, vmcb, msr, "
        "save and others ('help' lists them). The tab key completes names. With its input from a file it does the "
        "commands there. Exit status 0; 3 if the target does not come up.",
    )
    parser.add_argument("--target", default="qemu-tcg", metavar="NAME", help="default: qemu-tcg")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Takes commands until it is told to leave."""
    from harness.guest.l1 import L1
    from harness.scenario.asm import Assembler
    from harness.shell.prompt import Prompt

    (name,) = machine.check_targets([args.target])
    programs = machine.programs_of(args)
    machine.prepare([name], programs, may_install=not args.no_install)
    typed = sys.stdin.isatty()
    with WorkFolder("shell") as workdir:
        target = machine.make_target(name, workdir, programs)
        session = Session(target)
        try:
            session.boot  # noqa: B018  # so that a target that does not start is said at once
            l1 = L1(session, Assembler(ROOT / ".nsvm" / "cache" / "asm"), {})
            prompt = Prompt(l1, name, None if typed else sys.stdin, sys.stdout)
            _loop(prompt, typed=typed)
        except TargetLost as lost:
            raise HarnessError(lost.reason) from None
        except TargetError as error:
            raise HarnessError(str(error)) from None
        finally:
            session.close()
            release(target)
    return EXIT_OK


def _loop(prompt: object, *, typed: bool) -> None:
    from harness.shell.prompt import Prompt

    assert isinstance(prompt, Prompt)
    if not typed:
        prompt.cmdloop()
        return
    import readline

    with suppress(OSError):
        readline.read_history_file(HISTORY)
    readline.set_completer_delims(" \t\n=")
    while True:
        try:
            prompt.cmdloop()
            break
        except KeyboardInterrupt:  # the line is forgotten, not the session
            print("^C")
            prompt.intro = ""
    with suppress(OSError):
        HISTORY.parent.mkdir(exist_ok=True)
        readline.set_history_length(HISTORY_LINES)
        readline.write_history_file(HISTORY)
        HISTORY.chmod(0o600)
