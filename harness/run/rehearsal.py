"""Collects the assembly snippets of a run before it starts, so that all are assembled in few processes.

A test's function is called with a stand-in for L1 that notes the code it is given and stops the test at the first thing
that needs a target. What a test assembles later than that is assembled when it is met. A misspelt intercept is found
here already.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import pytest

from harness.guest.guest import BITS
from harness.guest.l1 import BLOBS
from harness.guest.room import Room
from harness.judge.code import user_text
from harness.names import UnknownName
from harness.scenario.asm import Assembler, Snippet
from harness.svm import intercept_bit

SNIPPETS_MAX = 50_000


class _Stop(Exception):
    """The rehearsal of one test is over."""


class _StandIn:
    """Looks like an L1 as far as code goes."""

    def __init__(self, snippets: list[Snippet]) -> None:
        self._snippets = snippets
        self._room = Room()

    def guest(self, code: str, *, mode: str = "long64", code_base: int | None = None, **more: Any) -> _GuestStandIn:
        for names in (more.get("intercept"), more.get("no_intercept")):
            if isinstance(names, tuple | list | set | frozenset):  # what can be read once belongs to the test
                for name in names:
                    intercept_bit(name)
        real = mode == "real16"
        place = self._room.next(real=real)
        base = place.code_base if code_base is None else code_base
        self._snippets.append(Snippet(code, BITS[mode], 0 if real else base))
        return _GuestStandIn(self._snippets)

    def code(self, code: str, *_: Any, **__: Any) -> None:
        self._snippets.append(Snippet(code + "\nret", 64, BLOBS))
        raise _Stop

    def user_code(self, code: str, *_: Any, **__: Any) -> None:
        self.code(user_text(code))

    def __getattr__(self, name: str) -> Any:
        raise _Stop


class _GuestStandIn(_StandIn):
    """A guest, as far as L1's code around it goes."""

    def setup(self, code: str, *_: Any, **__: Any) -> None:
        self._snippets.append(Snippet(code + "\nret", 64, BLOBS))

    teardown = setup

    def __enter__(self) -> _GuestStandIn:
        raise _Stop

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise _Stop


def rehearse(items: Iterable[pytest.Item], assembler: Assembler) -> dict[pytest.Item, UnknownName]:
    """Assembles what the tests will ask for; gives those that name what does not exist."""
    snippets: list[Snippet] = []
    wrong: dict[pytest.Item, UnknownName] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or "l1" not in item.fixturenames or len(snippets) > SNIPPETS_MAX:
            continue
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        needed = set(inspect.signature(item.obj).parameters)
        if needed - set(parameters) != {"l1"}:
            continue  # it uses another fixture, which only a real run can give
        try:
            item.obj(l1=_StandIn(snippets), **{name: parameters[name] for name in needed - {"l1"}})
        except UnknownName as error:
            wrong[item] = error
        except Exception:
            continue
        except pytest.skip.Exception:
            continue
    assembler.prefetch(snippets)
    return wrong
