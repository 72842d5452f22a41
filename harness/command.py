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
from importlib import import_module
from typing import NoReturn

from harness.cli.console import EXIT_HARNESS, EXIT_INTERRUPTED, EXIT_USAGE, HarnessError, UserError, say
from harness.cli.paths import LOG
from harness.names import near
from harness.version import told

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


COMMANDS = {
    "run": "harness.cli",
    "flaky": "harness.cli",
    "render": "harness.cli",
    "compare": "harness.cli",
    "bless": "harness.cli",
    "findings": "harness.cli",
    "clauses": "harness.cli",
    "targets": "harness.cli",
    "record": "harness.cli",
    "replay": "harness.cli",
    "sim": "harness.cli",
    "reference": "harness.cli",
    "caps": "harness.cli",
    "policy": "harness.cli",
    "new": "harness.cli",
    "doctor": "harness.cli",
    "coverage": "harness.cli",
    "explain": "harness.cli",
    "show": "harness.cli",
    "export": "harness.cli",
    "image": "harness.cli",
    "trend": "harness.cli",
    "prune": "harness.cli",
    "completion": "harness.cli",
    "bench": "harness.bench",
    "sensitivity": "harness.cli",
    "test": "harness.project",
}
"""The commands in the order of --help, and where the module of each is."""
_OTHER_NAMES = {"test": "selftest", "bench": "command"}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole command line; `only`: with this command alone, so that the others need not be loaded."""
    common = common_options()  # not the same ones: set_defaults() changes those of its parser
    parser = Parser(
        prog="nsvm",
        parents=[common_options()],
        description="A conformance suite for nested AMD SVM: runs an L1 hypervisor on a machine and says, clause by "
        "clause, where what it sees differs from AMD hardware.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=told())
    parser.set_defaults(no_install=False, debug=False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for name in [only] if only in COMMANDS else COMMANDS:
        import_module(f"{COMMANDS[name]}.{_OTHER_NAMES.get(name, name)}").add(subparsers, common)
    for subparser in subparsers.choices.values():
        subparser.allow_abbrev = False
    return parser


def common_options() -> Parser:
    """The options of every command. They have no default here: the parser of an action must not take back what was
    given before its name.
    """
    common = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("for every command")
    group.add_argument(
        "--no-install", action="store_true", help="install no Debian package: print the command that would and exit 2"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    return common


def options_of(parser: argparse.ArgumentParser, command: str | None) -> list[str]:
    """The options of a command, or of all of nsvm."""
    for action in parser._actions:
        if command is not None and isinstance(action, argparse._SubParsersAction):
            parser = action.choices[command]
    return [option for action in parser._actions for option in action.option_strings]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    try:
        named = next((word for word in arguments if not word.startswith("-")), None)
        if named is not None and named not in COMMANDS:
            raise UserError(f"there is no command {named!r}{near(named, COMMANDS)}; ./nsvm --help lists them")
        parser = build_parser(named)
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            where = f"nsvm {args.command}" if args.command else "nsvm"
            word = unknown[0].partition("=")[0]
            meant = near(word, options_of(parser, args.command)) if word.startswith("-") else ""
            raise UserError(f"{where} does not know {' '.join(unknown)}{meant}; see ./{where} --help")
        if args.command is None:
            parser.print_help()
            return EXIT_USAGE
        if rest and args.command not in ("run", "test"):
            raise UserError(f"nothing may follow '--' for {args.command}: {' '.join(rest)}")
        args.rest = rest
        args.whole_parser = build_parser
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


if __name__ == "__main__":
    sys.exit(main())
