"""`nsvm completion`: what a shell needs to complete nsvm's words, and the man page, made from the parser itself."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterable, Mapping

from harness.cli.console import EXIT_OK
from harness.version import VERSION

SHELLS = ("bash", "zsh", "fish", "man")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "completion",
        parents=[common],
        help="print completion for a shell, or the man page",
        description="Prints what makes a shell complete nsvm's commands and options, as in "
        'eval "$(./nsvm completion bash)"; or the man page: ./nsvm completion man > nsvm.1. Exit status 0.',
    )
    parser.add_argument("shell", choices=SHELLS, help="for which shell, or man")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints it."""
    top: argparse.ArgumentParser = args.whole_parser()
    made: Mapping[str, Callable[[argparse.ArgumentParser], str]] = {"bash": bash, "zsh": zsh, "fish": fish, "man": man}
    print(made[args.shell](top), end="")
    return EXIT_OK


def _commands(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _helps(top: argparse.ArgumentParser) -> dict[str, str]:
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {each.dest: each.help or "" for each in action._choices_actions}
    return {}


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a command, its sub-commands, and what its arguments may be."""
    words = [option for action in _options(parser) for option in action.option_strings]
    for action in parser._actions:
        if not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    return words


def bash(top: argparse.ArgumentParser) -> str:
    """For bash; zsh reads it by its bashcompinit."""
    cases = "".join(
        f"        {name}) words={shlex.quote(' '.join(_words(parser)))} ;;\n" for name, parser in _commands(top).items()
    )
    choices = "".join(
        f"        {'|'.join(action.option_strings)}) words={shlex.quote(' '.join(map(str, action.choices or ())))} ;;\n"
        for action in _distinct(_commands(top).values())
    )
    first = shlex.quote(" ".join(_words(top)))
    return f"""\
_nsvm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= words= each
    for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $each in -*) ;; *) command=$each; break ;; esac
    done
    case $command in
        '') words={first} ;;
{cases}    esac
    case $before in
{choices}    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _nsvm nsvm ./nsvm
"""


def _distinct(parsers: Iterable[argparse.ArgumentParser]) -> list[argparse.Action]:
    """The options that take one of some words, each once."""
    found = {tuple(a.option_strings): a for parser in parsers for a in _options(parser) if a.choices}
    return list(found.values())


def zsh(top: argparse.ArgumentParser) -> str:
    """For zsh."""
    return f"autoload -Uz bashcompinit && bashcompinit\n{bash(top)}"


def fish(top: argparse.ArgumentParser) -> str:
    """For fish."""
    lines = []
    helps = _helps(top)
    for name in _commands(top):
        about = shlex.quote(_plain(helps.get(name, "")))
        lines.append(f"complete -c nsvm -n __fish_use_subcommand -f -a {name} -d {about}")
    for name, parser in _commands(top).items():
        for action in _options(parser):
            flags = " ".join(f"-l {o[2:]}" if o.startswith("--") else f"-s {o[1:]}" for o in action.option_strings)
            takes = "" if action.nargs == 0 else " -r"
            choices = f" -f -a {shlex.quote(' '.join(map(str, action.choices)))}" if action.choices else ""
            about = shlex.quote(_plain(action.help or ""))
            lines.append(f"complete -c nsvm -n '__fish_seen_subcommand_from {name}' {flags}{takes}{choices} -d {about}")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("%%", "%").partition(";")[0][:120]


def man(top: argparse.ArgumentParser) -> str:
    """The page nsvm(1), in man's macros."""
    helps = _helps(top)
    told = [
        f'.TH NSVM 1 "" "nsvm {VERSION}" "User Commands"',
        ".SH NAME",
        _roff("nsvm - a conformance suite for nested AMD SVM"),
        ".SH SYNOPSIS",
        ".B nsvm",
        _roff("COMMAND [options]"),
        ".SH DESCRIPTION",
        _roff(top.description or ""),
        ".SH COMMANDS",
    ]
    for name, parser in _commands(top).items():
        told += [f".SS {_roff(f'nsvm {name}')}", _roff(parser.description or helps.get(name, "")), ".PP"]
        told.append(_roff(" ".join(parser.format_usage().split())))
        for action in parser._actions:
            if action.help in (None, argparse.SUPPRESS):
                continue
            names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            value = f" {action.metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
            told += [".TP", f".B {_roff(names + value)}", _roff(str(action.help))]
    epilog = re.split(r"\n\n", top.epilog or "")[0]
    told += [".SH EXIT STATUS", _roff(epilog)]
    return "\n".join(told) + "\n"


def _roff(text: str) -> str:
    escaped = " ".join(text.replace("%%", "%").split()).replace("\\", "\\\\").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
