"""What goes wrong with a machine."""

from __future__ import annotations

from harness.machine.base import TargetError


class MetalError(TargetError):
    """A console, power or boot driver failed, or what is said of a machine makes no sense. One line for people."""
