"""Several questions to a host in one round trip: shell text that prints each answer below a line nobody can forge."""

from __future__ import annotations

import secrets
from collections.abc import Mapping


class Sections:
    """Made once for each asking: the line between the answers is new each time."""

    def __init__(self, commands: Mapping[str, str]) -> None:
        self._commands = dict(commands)
        self._line = f"nsvm-{secrets.token_hex(12)}"

    def script(self) -> str:
        """For `sh`. What the commands say to stderr is dropped, their statuses too."""
        asked = [
            f"echo\necho {self._line} {name}\n{{ {command}\n}} 2>/dev/null" for name, command in self._commands.items()
        ]
        return "LC_ALL=C; export LC_ALL\n" + "\n".join(asked) + f"\necho\necho {self._line} end\ntrue\n"

    def split(self, out: bytes) -> dict[str, bytes]:
        """The answers by name. One that did not come, or not to its end, is not there."""
        _, *parts = out.split(b"\n" + self._line.encode() + b" ")
        named = [part.partition(b"\n") for part in parts]
        known = {name.encode(): name for name in self._commands}
        return {known[head]: body for head, _, body in named[:-1] if head in known}
