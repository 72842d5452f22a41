"""What part of the suites a run was asked for, and what makes its machine another than the baseline speaks of."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import pytest

from harness.record import Scope
from harness.run.options import RunOptions

_LISTS = (("deselect", "--deselect"), ("ignore", "--ignore"), ("ignore_glob", "--ignore-glob"))
_FLAGS = (("lf", "--lf"), ("stepwise", "--stepwise"))


def chosen_by(config: pytest.Config) -> list[str]:
    """What chooses some of the tests: paths, `-k asid_zero`. Empty where all suites were asked for."""
    option = config.option
    all_of_it = (config.rootpath, config.rootpath / "suites")
    asked = [(config.invocation_params.dir / argument).resolve() in all_of_it for argument in config.args]
    by = [] if any(asked) else [shlex.quote(argument) for argument in config.args]
    for name, flag in (("keyword", "-k"), ("markexpr", "-m")):
        if value := getattr(option, name, None):
            by.append(f"{flag} {shlex.quote(value)}")
    for name, flag in _LISTS:
        by += [f"{flag} {shlex.quote(str(value))}" for value in getattr(option, name, None) or ()]
    return by + [flag for name, flag in _FLAGS if getattr(option, name, None)]


def stops_early(option: Any) -> str:
    """The option with which a failure ends the run: `-x`; "" if none does."""
    if getattr(option, "stepwise", False):
        return "--stepwise"
    most = getattr(option, "maxfail", 0)
    return "-x" if most == 1 else f"--maxfail {most}" if most else ""


def is_whole(config: pytest.Config, options: RunOptions) -> bool:
    """True if all the suites were asked for on the machine as it is, so that what was not seen is not there."""
    return not (chosen_by(config) or options.told or stops_early(config.option))


def scope_of(config: pytest.Config, options: RunOptions, chosen: int, deselected: int, by: Sequence[str]) -> Scope:
    """How much of the suites this process collected. How many tests there are is known only where no path was named."""
    paths = bool(by) and not by[0].startswith("-")
    return Scope(
        target=config.option.target,
        chosen=chosen,
        there=0 if paths else chosen + deselected,
        chosen_by=by,
        options=options.told,
    )
