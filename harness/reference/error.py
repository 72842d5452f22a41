"""What goes wrong when the reference machine is built, as a person reads it."""

from __future__ import annotations


class ReferenceMachineError(Exception):
    """One line that says what, where and what to do."""


class AnchorError(ReferenceMachineError):
    """A hook that has no place in QEMU's source, or more than one. Names file, feature and anchor."""
