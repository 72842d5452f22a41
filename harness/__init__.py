"""The public face of the harness: what a suite may import, with harness.svm and harness.scenario.

The names are those of harness/public.py.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is None:
            public = import_module(f"{__name__}.public")
            if name in public.__all__:
                return getattr(public, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
