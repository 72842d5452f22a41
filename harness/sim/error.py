"""What goes wrong with simulated hosts, as a person reads it."""

from __future__ import annotations


class SimError(Exception):
    """One line that says what and what to do. `log` is the end of what the machine said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Refused(SimError):
    """The host is well, but does not do what the user asks of it."""
