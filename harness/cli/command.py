"""The parser, and what becomes of errors: a person's mistake is one line and status 2, ours is one line, a file
and status 3.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.cli.console import EXIT_HARNESS, EXIT_INTERRUPTED, EXIT_USAGE, HarnessError, UserError, say
from harness.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".nsvm"
LOG = STATE / "log"

_EPILOG = """\
exit status: 0 all well, 1 something new (run, clauses, test), 2 wrong use or a tool is missing, 3 the harness failed,
130 interrupted. Every command takes --help; docs/commands.md has all of it.

  ./nsvm run                            run every suite on QEMU's emulated CPU and write a report
  ./nsvm run --target bochs -k asid     on Bochs, the tests whose names hold 'asid'
  ./nsvm run -- -x --lf                 what comes after -- goes to pytest
"""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from harness.cli import (
        bench,
        bless,
        caps,
        clauses,
        compare,
        doctor,
        findings,
        flaky,
        new,
        reference,
        render,
        run,
        selftest,
        sensitivity,
        sim,
        targets,
    )

    parser = Parser(
        prog="nsvm",
        description="A conformance suite for nested AMD SVM: runs an L1 hypervisor on a machine and says, clause "
        "by clause, "
        "how what it sees differs from AMD hardware.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nsvm {VERSION}")
    common = Parser(add_help=False, allow_abbrev=False)
    group = common.add_argument_group("for every command")
    group.add_argument(
        "--no-install", action="store_true", help="install no Debian package: print the command that would and exit 2"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for module in (
        run,
        flaky,
        render,
        compare,
        bless,
        findings,
        clauses,
        targets,
        sim,
        reference,
        caps,
        new,
        doctor,
        bench,
        sensitivity,
        selftest,
    ):
        module.add(subparsers, common)
    for subparser in subparsers.choices.values():
        subparser.allow_abbrev = False
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    try:
        parser = build_parser()
        args, unknown = parser.parse_known_args(_command_first(arguments))
        if unknown:
            where = f"nsvm {args.command}" if args.command else "nsvm"
            raise UserError(f"{where} does not know {' '.join(unknown)}; see ./{where} --help")
        if args.command is None:
            parser.print_help()
            return EXIT_USAGE
        if rest and args.command not in ("run", "test"):
            raise UserError(f"nothing may follow '--' for {args.command}: {' '.join(rest)}")
        args.rest = rest
        args.typed = ["./nsvm", *(sys.argv[1:] if argv is None else argv)]
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else EXIT_USAGE if exit_.code else 0
    except UserError as error:
        say(str(error))
        return EXIT_USAGE
    except HarnessError as error:
        say(str(error))
        return EXIT_HARNESS
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`| head`): nothing more to say, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        return _internal(error, debug="--debug" in arguments)


def _command_first(arguments: list[str]) -> list[str]:
    """Options for every command may stand before it, too."""
    early: list[str] = []
    while arguments and arguments[0] in ("--no-install", "--debug"):
        early.append(arguments[0])
        arguments = arguments[1:]
    return [*arguments[:1], *early, *arguments[1:]] if arguments else []


def _internal(error: Exception, *, debug: bool) -> int:
    """An error nobody foresaw: one line for a person, the traceback in a file."""
    text = "".join(traceback.format_exception(error))
    first_line = (str(error).splitlines() or [""])[0]
    if debug:
        sys.stderr.write(text)
        where = "above"
    else:
        try:
            LOG.mkdir(parents=True, exist_ok=True)
            path = LOG / f"error-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.txt"
            path.write_text(text)
            where = str(path)
        except OSError:
            where = "shown by --debug"
    say(f"internal error: {type(error).__name__}: {first_line[:200]} (traceback: {where})")
    return EXIT_HARNESS
