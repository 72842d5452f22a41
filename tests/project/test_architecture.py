"""Imports go down the floors of docs/architecture.md, and inside a room no two files import each other.

An import inside a function or under TYPE_CHECKING counts like any other: a circle that only breaks at run time is one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("harness", "reports")
FACE = "face"
"""The room of harness/__init__.py."""
WITHOUT_PYTEST = ("svm", "text", "version", "record", "scenario", "machine", "link", "hosts", "summary")
"""What can be used where there is no pytest."""


def modules() -> dict[str, Path]:
    """Each module's name and file."""
    return {
        re.sub(r"\.__init__$", "", ".".join(path.relative_to(ROOT).with_suffix("").parts)): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def room_of(module: str) -> str:
    """`hosts` of harness.hosts.lab; `reports` of reports.html."""
    package, *inside = module.split(".")
    return package if package != "harness" else inside[0] if inside else FACE


def floors_of(page: str) -> dict[str, int]:
    """The floor of each room in the table of docs/architecture.md: the first name of each part of a row."""
    found = {}
    for number, rooms in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE):
        for part in rooms.split(";"):
            name = re.match(r"\s*`(\w+)`", part)
            assert name, f"floor {number}: {part!r} does not begin with a room"
            assert name[1] not in found, f"room {name[1]} is on two floors"
            found[name[1]] = int(number)
    return found


def imports(source: str, module: str, known: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """The modules of the project that a source imports, each with its line. There are no relative imports (ruff)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [name if (name := f"{base}.{alias.name}") in known else base for alias in node.names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name in known and name != module)


def against(floors: Mapping[str, int], edges: Sequence[tuple[str, str, str]]) -> list[str]:
    """The imports that do not go down; an edge is (importing module, imported module, place)."""
    return [
        f"{place}: {room_of(one)} (floor {floors[room_of(one)]}) imports {other} (floor {floors[room_of(other)]})"
        for one, other, place in edges
        if room_of(one) != room_of(other) and floors[room_of(one)] <= floors[room_of(other)]
    ]


@pytest.fixture(scope="module")
def edges() -> list[tuple[str, str, str]]:
    known = modules()
    return [
        (module, other, f"{path.relative_to(ROOT)}:{line}")
        for module, path in known.items()
        for other, line in imports(path.read_text(), module, known)
    ]


@pytest.fixture(scope="module")
def floors() -> dict[str, int]:
    return floors_of((ROOT / "docs/architecture.md").read_text())


def test_every_room_has_a_floor(floors: dict[str, int]) -> None:
    assert sorted(floors) == sorted({room_of(module) for module in modules()})


def test_imports_go_down(floors: dict[str, int], edges: list[tuple[str, str, str]]) -> None:
    assert len(edges) > 500, "the imports were not read"
    assert against(floors, edges) == []


def test_no_circle_inside_a_room(edges: list[tuple[str, str, str]]) -> None:
    graph: dict[str, set[str]] = {}
    for one, other, _ in edges:
        if room_of(one) == room_of(other):
            graph.setdefault(one, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_model_needs_no_pytest() -> None:
    found = [
        str(path.relative_to(ROOT))
        for module, path in modules().items()
        if room_of(module) in WITHOUT_PYTEST and re.search(r"^\s*(import|from) _?pytest\b", path.read_text(), re.M)
    ]
    assert found == []


def test_an_import_against_an_arrow_is_found() -> None:
    known = dict.fromkeys(["harness", "harness.svm.bits", "harness.hosts", "harness.hosts.lab", "harness.link.link"])
    source = "def later():\n    from harness.hosts import lab\nif TYPE_CHECKING:\n    import harness.link.link\n"
    found = [("harness.svm.bits", other, str(line)) for other, line in imports(source, "harness.svm.bits", known)]

    assert against({"svm": 1, "hosts": 3, "link": 3}, found) == [
        "2: svm (floor 1) imports harness.hosts.lab (floor 3)",
        "4: svm (floor 1) imports harness.link.link (floor 3)",
    ]
    assert against({"svm": 3, "hosts": 3, "link": 1}, found) == ["2: svm (floor 3) imports harness.hosts.lab (floor 3)"]
