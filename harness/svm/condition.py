"""Clause conditions such as `NP & !(VGIF | VNMI)`: read, judged, and the judgement put into words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import product

from harness.svm.features import UnknownFeature, known

_TOKEN = re.compile(r"\s*([A-Za-z0-9_.\-]+|[!&|()])")
_FEATURES_MAX = 10  # of conditions that are asked whether they contradict one another
_DEPTH_MAX = 16  # a condition is written by people; one that nests deeper is a mistake

Has = Callable[[str], bool]
Why = Callable[[str], str]


def evaluate(expression: str, has: Has, why: Why) -> tuple[bool, str]:
    """Whether the condition holds, and the facts it hung on (`CPUID Fn8000_000A EDX[3] (NRIPS) is 0`).

    `! & |`, doubled `&& ||`, and parentheses; `!` binds closest, `|` loosest. ValueError if it cannot be read.
    """
    parser = _Parser(expression, has, why)
    if not parser.tokens:
        return True, "unconditional"
    value = parser.any_of(0)
    if parser.tokens:
        raise ValueError(f"condition {expression!r}: {parser.tokens[0]!r} is too much")
    return value, "; ".join(dict.fromkeys(parser.facts))


def features_of(expression: str) -> frozenset[str]:
    """The features that a condition names, by their own names. ValueError if it cannot be read or names an unknown
    one."""
    found: set[str] = set()

    def note(name: str) -> bool:
        found.add(known(name).name)
        return True

    try:
        evaluate(expression, note, str)
    except UnknownFeature as error:
        raise ValueError(f"condition {expression!r}: {error}") from None
    return frozenset(found)


@cache
def _contradict(expressions: tuple[str, ...]) -> bool:
    names = sorted(frozenset().union(*map(features_of, expressions)))
    if len(names) > _FEATURES_MAX:
        return False

    def hold(offered: dict[str, bool]) -> bool:
        return all(evaluate(each, lambda name: offered[known(name).name], str)[0] for each in expressions)

    return not any(hold(dict(zip(names, values, strict=True))) for values in product((False, True), repeat=len(names)))


def contradict(expressions: Iterable[str]) -> bool:
    """Whether there is no CPU on which all the conditions hold."""
    return _contradict(tuple(expressions))


class _Parser:
    def __init__(self, expression: str, has: Has, why: Why) -> None:
        self.expression = expression
        self.has = has
        self.why = why
        self.facts: list[str] = []
        self.tokens = _tokens(expression)

    def any_of(self, depth: int) -> bool:
        value = self.all_of(depth)
        while self._take("|"):
            value = self.all_of(depth) or value
        return value

    def all_of(self, depth: int) -> bool:
        value = self.one(depth)
        while self._take("&"):
            value = self.one(depth) and value
        return value

    def one(self, depth: int) -> bool:
        if depth > _DEPTH_MAX:
            raise ValueError(f"condition {self.expression!r} nests too deeply")
        if self._take("!"):
            return not self.one(depth + 1)
        if self._take("("):
            value = self.any_of(depth + 1)
            if not self._take(")"):
                raise ValueError(f"condition {self.expression!r}: a parenthesis is not closed")
            return value
        if not self.tokens or self.tokens[0] in "!&|()":
            raise ValueError(f"condition {self.expression!r}: a feature name is missing")
        name = self.tokens.pop(0)
        self.facts.append(self.why(name))
        return self.has(name)

    def _take(self, token: str) -> bool:
        if self.tokens[:1] != [token]:
            return False
        self.tokens.pop(0)
        return True


def _tokens(expression: str) -> list[str]:
    text = expression.strip().replace("&&", "&").replace("||", "|")
    tokens: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"condition {expression!r}: cannot read {text[at:]!r}")
        tokens.append(match.group(1))
        at = match.end()
    return tokens
