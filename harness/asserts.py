"""The assert statements of the suites, and which tests may come by them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType


@dataclass(frozen=True)
class Assert:
    """One assert statement. `function` is the outermost function that it stands in."""

    path: str
    line: int
    end: int
    function: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text[:120]}"

    def holds(self, path: str, line: int) -> bool:
        """Whether that place is in this statement."""
        return path == self.path and self.line <= line <= self.end


def asserts_of(root: Path, paths: Iterable[str]) -> list[Assert]:
    """The assert statements in the functions of these files, in order."""
    found = []
    for path in sorted(set(paths)):
        for function in ast.parse((root / path).read_text()).body:
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Assert):
                    text = ast.unparse(node)
                    found.append(Assert(path, node.lineno, node.end_lineno or node.lineno, function.name, text))
    return found


def callees(function: FunctionType) -> set[str]:
    """The names of the functions of its module that a function may call, itself included."""
    module = inspect.getmodule(function)
    found: set[str] = set()
    ahead = [function]
    while ahead:
        now = ahead.pop()
        if now.__name__ in found:
            continue
        found.add(now.__name__)
        names = set(now.__code__.co_names)
        for inner in now.__code__.co_consts:  # lambdas, comprehensions and functions inside
            names |= set(getattr(inner, "co_names", ()))
        others = (getattr(module, name, None) for name in names)
        ahead += [other for other in others if isinstance(other, FunctionType)]
    return found
