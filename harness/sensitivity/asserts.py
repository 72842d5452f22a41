"""The assert statements of the suites, and which tests may come by them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

Lines = Mapping[str, Mapping[int, "Assert"]]
"""The asserts by the file as Python calls it, and by each of their lines."""


@dataclass(frozen=True)
class Assert:
    """One assert statement. `function` is the outermost function or class that it stands in."""

    path: str
    line: int
    end: int
    function: str
    text: str
    on_cpuid: bool = False  # it stands in an `if` that asks CPUID

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text[:120]}"

    def holds(self, path: str, line: int) -> bool:
        """Whether that place is in this statement."""
        return path == self.path and self.line <= line <= self.end


def asserts_of(root: Path) -> list[Assert]:
    """The assert statements of the suites below `root`, in order."""
    found = []
    for file in sorted((root / "suites").rglob("*.py")):
        path = str(file.relative_to(root))
        for outermost in ast.parse(file.read_text()).body:
            for node, on_cpuid in _asserts_in(outermost, on_cpuid=False):
                name = getattr(outermost, "name", "")
                text = ast.unparse(node)
                found.append(Assert(path, node.lineno, node.end_lineno or node.lineno, name, text, on_cpuid))
    return found


def _asserts_in(node: ast.AST, *, on_cpuid: bool) -> Iterator[tuple[ast.Assert, bool]]:
    if isinstance(node, ast.Assert):
        yield node, on_cpuid
    if isinstance(node, ast.If):
        on_cpuid = on_cpuid or "cpuid" in ast.unparse(node.test)
    for child in ast.iter_child_nodes(node):
        yield from _asserts_in(child, on_cpuid=on_cpuid)


def by_line(root: Path, asserts: Iterable[Assert]) -> Lines:
    """The asserts by where they are."""
    lines: dict[str, dict[int, Assert]] = {}
    for one in asserts:
        lines.setdefault(str(root / one.path), {}).update(dict.fromkeys(range(one.line, one.end + 1), one))
    return lines


@cache
def callees(function: FunctionType, folder: str) -> frozenset[tuple[str, str]]:
    """The functions and classes in files below `folder` that a function may call, itself included: file and name.

    What is called by a name that only a running test knows is not found.
    """
    found: set[tuple[str, str]] = set()
    done: set[CodeType] = set()
    ahead = [function]
    while ahead:
        now = inspect.unwrap(ahead.pop())  # of a decorator that keeps what it wraps, as contextmanager does
        code = now.__code__
        if code in done or not code.co_filename.startswith(folder):
            continue
        done.add(code)
        found.add((code.co_filename, code.co_qualname.partition(".")[0]))
        names = set(_names(code))
        scopes = [now.__globals__]
        scopes += [vars(now.__globals__[name]) for name in names if isinstance(now.__globals__.get(name), ModuleType)]
        for thing in (scope[name] for scope in scopes for name in names if name in scope):
            inner = vars(thing).values() if isinstance(thing, type) else [thing]
            ahead += [each for each in inner if isinstance(each, FunctionType)]
    return frozenset(found)


def _names(code: CodeType) -> Iterator[str]:
    """What it names, and what lambdas, comprehensions and functions inside name."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
