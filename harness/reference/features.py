"""The hooks files of reference_machine/hooks: one a feature. reference_machine/README.md says what may stand in one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.reference.anchors import PLACES, Edit
from harness.reference.error import ReferenceMachineError

NAME = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
ORDER = 50
BITS = {
    "LbrVirt": "LBRV",
    "SVML": "SVMLOCK",
    "NRIPS": "NRIPSAVE",
    "TscRateMsr": "TSCSCALE",
    "VmcbClean": "VMCBCLEAN",
    "FlushByAsid": "FLUSHASID",
    "DecodeAssists": "DECODEASSIST",
    "PauseFilter": "PAUSEFILTER",
    "PauseFilterThreshold": "PFTHRESHOLD",
    "VmsaveVirt": "V_VMSAVE_VMLOAD",
    "VNMI": "VNMI",
}
"""Bits of Fn8000_000A EDX that a feature may bring, and what QEMU calls them, after CPUID_SVM_."""
MIGRATED = {
    "bool": "BOOL",
    **{f"{sign}int{bits}_t": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""C types that a saved machine keeps, and the name in VMSTATE_name."""
PROPERTIES = {"bool": "bool", "uint32": "uint32_t", "uint64": "uint64_t", "string": "char *"}
"""Kinds of CPU properties, and their C types."""


@dataclass(frozen=True)
class Variable:
    """A member of env->nsvm.FEATURE. `count`: of an array, else 0. `migrate`: kept by a saved machine."""

    name: str
    type: str
    count: int = 0
    migrate: bool = True


@dataclass(frozen=True)
class Property:
    """One of QEMU's -cpu properties, env->nsvm_config.FEATURE.member to the code."""

    name: str
    member: str
    kind: str
    default: str


@dataclass(frozen=True)
class Feature:
    """A hooks file."""

    name: str
    what: str
    order: int = ORDER
    bits: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    declare: str = ""
    post_load: str = ""
    state: tuple[Variable, ...] = ()
    properties: tuple[Property, ...] = ()
    edits: tuple[Edit, ...] = ()


def load_all(folder: Path) -> list[Feature]:
    """All hooks files, in the order in which they are applied: by `order`, then by name."""
    features = [load(path) for path in sorted(folder.glob("*.toml"))]
    if not features:
        raise ReferenceMachineError(f"{folder}: there are no hooks (*.toml)")
    return sorted(features, key=lambda feature: (feature.order, feature.name))


def load(path: Path) -> Feature:
    """One hooks file. Raises ReferenceMachineError, which names the file and what is wrong with it."""
    try:
        content = tomllib.loads(path.read_text())
        feature = _feature(content, path.stem)
    except (OSError, ValueError, TypeError) as error:
        raise ReferenceMachineError(f"{path.name}: {error}") from None
    for name in (*feature.sources, *feature.headers):
        if not (path.parent.parent / "src" / name).is_file():
            raise ReferenceMachineError(f"{path.name}: there is no src/{name}")
    return feature


def _feature(content: Mapping[str, Any], name: str) -> Feature:
    _known(content, ("feature", "state", "property", "edit"), "the file")
    if not NAME.match(name):
        raise ValueError("a feature's name is of small letters, digits and _")
    head = dict(content["feature"]) if "feature" in content else {}
    allowed = ("what", "order", "bits", "sources", "headers", "helpers", "declare", "post_load")
    _known(head, allowed, "[feature]")
    if not head.get("what"):
        raise ValueError("[feature] must say `what` it is")
    for bit in head.get("bits", ()):
        if bit not in BITS:
            raise ValueError(f"no bit is called {bit!r}: {', '.join(BITS)}")
    lists = {key: tuple(head[key]) for key in ("bits", "sources", "headers", "helpers") if key in head}
    feature = Feature(name=name, **{**head, **lists})
    return replace(
        feature,
        state=tuple(_variable(entry) for entry in content.get("state", ())),
        properties=tuple(_property(entry) for entry in content.get("property", ())),
        edits=tuple(_edit(entry, name) for entry in content.get("edit", ())),
    )


def _variable(entry: Mapping[str, Any]) -> Variable:
    _known(entry, ("name", "type", "count", "migrate", "what"), "[[state]]")
    variable = Variable(**{key: value for key, value in entry.items() if key != "what"})
    if variable.migrate and variable.type not in MIGRATED:
        raise ValueError(f"[[state]] {variable.name}: a saved machine cannot keep a {variable.type}: migrate = false")
    return variable


def _property(entry: Mapping[str, Any]) -> Property:
    _known(entry, ("name", "member", "kind", "default", "what"), "[[property]]")
    name, kind = str(entry["name"]), str(entry["kind"])
    if not name.startswith("x-nsvm"):
        raise ValueError(f"[[property]] {name}: the name must begin with x-nsvm")
    if kind not in PROPERTIES:
        raise ValueError(f"[[property]] {name}: no kind {kind!r}: {', '.join(PROPERTIES)}")
    default = entry.get("default", "")
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return Property(name, str(entry["member"]), kind, text)


def _edit(entry: Mapping[str, Any], feature: str) -> Edit:
    allowed = ("file", "function", "block", "anchor", "before", "after", "replace", "times", "what", "clauses")
    _known(entry, allowed, "[[edit]]")
    places = [place for place in PLACES if place in entry]
    if len(places) != 1:
        raise ValueError(f"[[edit]] at {entry.get('anchor')!r}: give one of {', '.join(PLACES)}")
    for key in ("file", "anchor", "what"):
        if not entry.get(key):
            raise ValueError(f"[[edit]] at {entry.get('anchor')!r}: `{key}` is missing")
    if "function" in entry and "block" in entry:
        raise ValueError(f"[[edit]] at {entry['anchor']!r}: give `function` or `block`")
    file = str(entry["file"])
    if file.startswith("/") or ".." in file.split("/"):
        raise ValueError(f"[[edit]] {file}: files are named from the top of QEMU's source")
    return Edit(
        feature=feature,
        file=file,
        anchor=str(entry["anchor"]),
        place=places[0],
        text=str(entry[places[0]]),
        what=str(entry["what"]),
        function=entry.get("function"),
        block=entry.get("block"),
        times=int(entry.get("times", 1)),
        clauses=tuple(entry.get("clauses", ())),
    )


def _known(table: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in allowed:
            raise ValueError(f"{where} has {key!r}; it may have {', '.join(allowed)}")
