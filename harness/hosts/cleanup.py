"""What a run leaves on a host: guests whose names begin with nsvm-, and a folder. And how both are removed."""

from __future__ import annotations

import re

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.l0 import GUEST_PREFIX, L0

GUESTS_MAX = 256
GUEST_NAME = re.compile(re.escape(GUEST_PREFIX) + r"[A-Za-z0-9_.-]{1,100}\Z")
DEADLINE_S = 20.0


def running_guests(host: Connection, l0: L0) -> list[str]:
    """The guests of this or any run that are on the host. Raises HostError."""
    ran = host.run(l0.leftovers_script(), deadline_s=DEADLINE_S)
    names = {line.strip() for line in ran.text.splitlines()}
    return sorted(name for name in names if GUEST_NAME.match(name))[:GUESTS_MAX]


def end_guests(host: Connection, l0: L0, name: str | None = None, *, besides: str | None = None) -> list[str]:
    """Ends the guest of that name, or all but those whose names begin with `besides`. Says which there were.

    Raises HostError if some stay.
    """
    found = [
        guest
        for guest in running_guests(host, l0)
        if (name is None or guest == name) and not (besides and guest.startswith(besides))
    ]
    if not found:
        return []
    ran = host.run("\n".join(f"( {l0.stop_script(guest)}\n)" for guest in found), deadline_s=DEADLINE_S)
    stay = [guest for guest in running_guests(host, l0) if guest in found]
    if stay:
        raise HostError(f"host {host.name}: the guest {', '.join(stay)} cannot be ended: {ran.complaint}", ran.text)
    return found
