"""The one error of hosts: a line for people."""

from __future__ import annotations

from harness.machine.base import TargetError


class HostError(TargetError):
    """A host cannot be used. One clear line; `log` is what came from there, bounded and printable.

    `passing`: it may go away by itself (a host that boots, a cable), as a wrong key does not.
    """

    def __init__(self, message: str, log: str = "", *, passing: bool = False) -> None:
        super().__init__(message, log)
        self.passing = passing
