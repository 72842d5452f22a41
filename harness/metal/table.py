"""A driver made from its table in the lab file: the fields of a dataclass are its keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from harness.metal.error import MetalError
from harness.names import nearest

Driver = TypeVar("Driver")
_SAID = {"str": "text in quotes", "int": "a whole number", "float": "a number", "bool": "true or false"}
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def make(kind: type[Driver], what: str, table: Mapping[str, Any]) -> Driver:
    """A driver from `table`, whose field `what` begins each complaint. Raises MetalError."""
    assert dataclasses.is_dataclass(kind)
    fields = {each.name: each for each in dataclasses.fields(kind) if each.name != "what"}
    values: dict[str, object] = {"what": what}
    for key, value in table.items():
        if key not in fields:
            raise MetalError(f"{what}: {key!r} is no key{nearest(key, fields)}; there are {', '.join(fields)}")
        values[key] = checked(what, key, value, str(fields[key].type).split()[0])
    for name, each in fields.items():
        if name not in values and each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise MetalError(f"{what}: {name} is missing")
    return kind(**values)


def checked(what: str, key: str, value: Any, kind: str) -> object:
    """The value, if it is of the kind that a field's type names. Raises MetalError."""
    wanted = _TYPES[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise MetalError(f"{what}: {key} must be {_SAID[kind]}, not {value!r}")
    return float(str(value)) if kind == "float" else value
