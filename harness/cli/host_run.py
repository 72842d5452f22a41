"""What a run on a lab host needs of the command: a password that was typed, and patience while the host comes back.

The run's pytest and its workers have no terminal.
"""

from __future__ import annotations

import os
import sys

from harness.cli.console import UserError
from harness.machine.base import TargetError


def _is_host(name: str) -> bool:
    return name.startswith(("host:", "ssh://"))


def password_for(name: str) -> dict[str, str]:
    """The environment that lets a pytest log in where a person had to type a password here; else empty.

    Raises UserError.
    """
    if not _is_host(name):
        return {}
    from harness.hosts.login import PASSWORD_VARIABLE, typed_passwords
    from harness.targets.reach import reached

    if os.environ.get(PASSWORD_VARIABLE) or sys.stdin is None or not sys.stdin.isatty():
        return {}
    before = typed_passwords()
    try:
        with reached(name):
            pass
    except TargetError as error:
        raise UserError(str(error)) from None
    typed = {password for who, password in typed_passwords().items() if who not in before}
    if len(typed) > 1:
        raise UserError(f"{name}: more than one password was asked for on the way there; a run can use one: use keys")
    return {PASSWORD_VARIABLE: typed.pop()} if typed else {}


def recovery_s(name: str) -> float:
    """How long bringing the host back may take, during which a run has nothing to say."""
    if not _is_host(name):
        return 0.0
    from harness.hosts.power import longest_recovery_s
    from harness.targets.reach import spec_of

    try:
        return longest_recovery_s(spec_of(name))
    except TargetError:
        return 0.0  # the run itself will say what is wrong with it
