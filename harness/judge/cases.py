"""Parameters of a test with ids that say what they are, without a lambda for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import pytest

from harness.judge.expect import AnyOf, Masked, Special

PLAIN_MAX = 9  # numbers up to here need no base


def cases(
    names: str | tuple[str, ...], values: Iterable[Any] | Mapping[str, Any], *, prefix: str = "", decimal: bool = False
) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` with readable ids: `cases("msr", [LSTAR, CSTAR])`, `cases("bit", range(12),
    prefix="bit", decimal=True)`, `cases("code", {"plain": "cpuid", "rex": "rex.w cpuid"})`.

    Numbers beyond 9 are said in hexadecimal (`c0000081h`), members of an enum by name, bytes by their digits, a bool by
    the parameter's name (`np`, `no_np`), code by its words. A mapping gives each value its id.
    `names` is one name, or several with a tuple of values for each case. Raises ValueError if two ids are the same.
    """
    listed = names if isinstance(names, tuple) else tuple(name.strip() for name in names.split(","))
    if isinstance(values, Mapping):
        ids, given = list(values), list(values.values())
    else:
        given = list(values)
        ids = [prefix + _case(listed, value, decimal) for value in given]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    if twice:
        raise ValueError(f"cases of {', '.join(listed)}: {', '.join(twice)} is there twice; name them with a mapping")
    return pytest.mark.parametrize(listed if len(listed) > 1 else listed[0], given, ids=ids)


def _case(names: tuple[str, ...], value: Any, decimal: bool) -> str:
    parts = zip(names, value if len(names) > 1 else (value,), strict=True)
    return "-".join(say(part, name, decimal=decimal) for name, part in parts)


def say(value: Any, name: str = "", *, decimal: bool = False) -> str:
    """One value as a part of an id. `name` is the parameter's."""
    match value:
        case bool():
            return name if value else f"no_{name}"
        case None:
            return "none"
        case Enum():
            return value.name.lower()
        case int():
            plain = decimal or 0 <= value <= PLAIN_MAX
            return str(value) if plain else f"{'-' if value < 0 else ''}{abs(value):x}h"
        case bytes():
            return value.hex() or "none"
        case str():
            return re.sub(r"[^A-Za-z0-9_.+]+", "_", value).strip("_") or "none"
        case AnyOf():
            return "or".join(say(each) for each in value.values)
        case Masked():
            return f"{say(value.value)}of{say(value.mask)}"
        case Special():
            return value.name
        case Mapping():
            return "-".join(f"{key}={say(each, str(key), decimal=decimal)}" for key, each in value.items()) or "none"
        case list() | tuple() | range() | set() | frozenset():
            return "-".join(say(each, decimal=decimal) for each in value) or "none"
    return say(str(getattr(value, "__name__", value)))
