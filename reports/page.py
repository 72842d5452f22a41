"""What every page is made with: templates whose text is escaped, bounded and shown as what it is, and a policy that
admits no script or style but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.text import block, ends, line


def anchor(prefix: str, *names: str) -> str:
    """A fragment id made of names; equal names give equal ids, different ones different ids."""
    text = "~".join(names)
    slug = re.sub(r"[^A-Za-z0-9._~-]", "_", text)[:120]
    if slug != text:
        slug += "-" + hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{prefix}-{slug}"


def reference(text: str) -> Markup | str:
    """A link if it is one http(s) URL and nothing else, with the URL as its text, so that paper shows it too."""
    if re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&()*+,;=%-]{3,400}", text):
        return Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(text)
    return line(text, 400)


def split_param(test: str) -> tuple[str, str]:
    """A node id as (function, parameters): "a.py::test_x[y]" is ("a.py::test_x", "y")."""
    head, found, rest = test.partition("[")
    return (head, rest.removesuffix("]")) if found else (test, "")


def listed(tests: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Node ids as (function, its parameters)."""
    found: dict[str, list[str]] = {}
    for test in tests:
        function, param = split_param(test)
        found.setdefault(function, []).append(param)
    return list(found.items())


def top_reasons(reasons: Counter[str], most: int = 2) -> list[tuple[str, int]]:
    """The commonest reasons, and how many tests have another one."""
    told = reasons.most_common(most)
    others = reasons.total() - sum(n for _, n in told)
    return [*told, ("for other reasons, see Skips", others)] if others else told


def environment() -> Environment:
    def finalize(value: object) -> object:
        if value is None:
            return ""
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return block(value, 8000) if "\n" in value else line(value, 2000)

    env = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(line=line, block=block, ends=ends, reference=reference, listed=listed, top_reasons=top_reasons)
    env.globals.update(anchor=anchor, split_param=split_param)
    return env


def digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def raw(env: Environment, name: str) -> str:
    assert env.loader is not None
    return env.loader.get_source(env, name)[0].strip()
