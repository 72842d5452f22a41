"""What a test needs and the machine does not offer."""

from __future__ import annotations


class NotOffered(Exception):
    """The test cannot be asked of this machine; its text names what is missing. A test runner makes a skip of it."""
