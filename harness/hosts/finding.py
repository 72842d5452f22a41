"""One line of what doctor finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostFinding:
    """`ok` is None for what is worth knowing and stops nothing. `mend` is the line that mends it."""

    ok: bool | None
    what: str
    detail: str
    mend: str = ""

    @property
    def mark(self) -> str:
        """The word at the beginning of the line."""
        return {True: "ok", False: "missing", None: "-"}[self.ok]
