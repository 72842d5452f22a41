"""The host's key against known_hosts files, as OpenSSH writes them: hashed names, patterns, ports, revoked keys.

A line that makes no sense is skipped, as ssh itself does; paramiko's own reader would stop there.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
from collections.abc import Iterator

import paramiko

from harness.hosts.errors import HostError
from harness.hosts.ssh_config import Place

REVOKED = "@revoked"


def known_keys(place: Place) -> list[paramiko.PKey]:
    """The keys that are its. Raises HostError."""
    return [key for marker, key in _entries(place) if not marker]


def check_key(place: Place, offered: paramiko.PKey) -> None:
    """Raises HostError if the key that a host shows is not known to be its."""
    if (REVOKED, offered) in _entries(place):
        raise HostError(f"host {place.name}: the host key of {place.key_name} is revoked ({fingerprint(offered)})")
    known = known_keys(place)
    if offered in known:
        return
    port = f" -p {place.port}" if place.port != 22 else ""
    own = shlex.quote(str(place.known_hosts[0]))
    if known:
        raise HostError(
            f"host {place.name}: the host key of {place.key_name} has changed: known is "
            f"{', '.join(map(fingerprint, known))}, it shows {fingerprint(offered)}. Somebody may be in between; if "
            f"you know that it is right: ssh-keygen -f {own} -R '{place.key_name}', then "
            f"ssh-keyscan{port} {place.address} >> {own}"
        )
    raise HostError(
        f"host {place.name}: the host key of {place.key_name} is not known ({fingerprint(offered)}). Log in once by "
        f"hand and compare it: ssh{port} {place.user}@{place.address} (or ssh-keyscan{port} {place.address} >> {own})"
    )


def fingerprint(key: paramiko.PKey) -> str:
    """As ssh shows it."""
    return f"{key.get_name()} {key.fingerprint}"


def _entries(place: Place) -> Iterator[tuple[str, paramiko.PKey]]:
    """The marker, "" if there is none, and the key of each line that is for the host."""
    for path in place.known_hosts:
        try:
            lines = path.read_text(errors="replace").split("\n")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostError(f"host {place.name}: {path} cannot be read: {error.strerror}") from None
        for line in lines:
            fields = line.split()
            marker = fields.pop(0) if line.startswith("@") else ""
            if len(fields) >= 3 and not line.startswith("#") and _is_for(fields[0], place.key_name):
                with contextlib.suppress(Exception):  # whatever paramiko says of a key that it does not know
                    yield marker, paramiko.PKey.from_type_string(fields[1], base64.b64decode(fields[2]))


def _is_for(names: str, name: str) -> bool:
    if names.startswith("|1|"):
        with contextlib.suppress(Exception):  # a damaged salt
            return paramiko.HostKeys.hash_host(name, names) == names
        return False
    matching = {each for each in names.lower().split(",") if _like(each.removeprefix("!")).fullmatch(name)}
    return bool(matching) and not any(each.startswith("!") for each in matching)


def _like(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern))
