"""From a place to a transport that is logged in: TCP, the host's key, ours. Each failure is one line."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko

from harness.hosts.errors import HostError
from harness.hosts.ssh_config import Place

PASSWORD_VARIABLE = "NSVM_SSH_PASSWORD"
LOGGER = "nsvm.ssh"
USER_TIMEOUT_MS = 15_000

logging.getLogger(LOGGER).addHandler(logging.NullHandler())
logging.getLogger(LOGGER).propagate = False

_passwords: dict[tuple[str, str, int], str] = {}  # what a person has typed, for reconnecting; nowhere else


def dial(place: Place, deadline_s: float) -> socket.socket:
    """A TCP connection without Nagle's delay, given up by the kernel if nothing is acknowledged. Raises HostError."""
    where = f"host {place.name}: {place.address} port {place.port}"
    try:
        connected = socket.create_connection((place.address, place.port), timeout=max(deadline_s, 0.01))
    except socket.gaierror as error:
        raise HostError(
            f"host {place.name}: the name {place.address} is not known: {error.strerror}", passing=True
        ) from None
    except ConnectionRefusedError:
        raise HostError(
            f"{where} refuses the connection: is sshd running there, and is it the right port?", passing=True
        ) from None
    except TimeoutError:
        raise HostError(f"{where} does not answer within {deadline_s:.0f} s", passing=True) from None
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise HostError(f"{where} cannot be reached: {reason}", passing=True) from None
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return connected


def login(place: Place, sock: socket.socket | paramiko.Channel, deadline_s: float) -> paramiko.Transport:
    """Shakes hands over `sock`, checks the host's key, proves who we are. Raises HostError; `sock` is then closed."""
    deadline = time.monotonic() + deadline_s
    transport: paramiko.Transport | None = None
    try:
        known = _known_keys(place)
        transport = paramiko.Transport(sock)
        transport.set_log_channel(LOGGER)
        transport.daemon = True
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = max(deadline_s, 0.1)
        if known:
            options = transport.get_security_options()
            wanted = {name for key in known for name in _algorithms(key.get_name())}
            options.key_types = sorted(options.key_types, key=lambda name: name not in wanted)
        transport.start_client(timeout=max(deadline_s, 0.1))
        _check_key(place, known, transport.get_remote_server_key())
        _authenticate(place, transport, deadline)
    except HostError:
        _drop(transport, sock)
        raise
    except (paramiko.SSHException, EOFError, OSError) as error:
        _drop(transport, sock)
        where = f"host {place.name}: {place.address} port {place.port}"
        if time.monotonic() >= deadline:
            raise HostError(f"{where} does not shake hands within {deadline_s:.0f} s", passing=True) from None
        said = str(error) or "the other side closed the connection"
        hint = "; what answers there is no SSH server, or a busy one" if "banner" in said else ""
        raise HostError(f"{where}: no SSH connection: {said}{hint}", passing=True) from None
    except BaseException:
        _drop(transport, sock)
        raise
    return transport


def fingerprint(key: paramiko.PKey) -> str:
    """As ssh shows it."""
    return f"{key.get_name()} {key.fingerprint}"


def _known_keys(place: Place) -> list[paramiko.PKey]:
    keys: list[paramiko.PKey] = []
    for path in place.known_hosts:
        known = paramiko.HostKeys()
        try:
            known.load(str(path))
        except FileNotFoundError:
            continue
        except Exception as error:  # paramiko lets through what its parsers raise
            raise HostError(f"host {place.name}: {path} cannot be read: {error}") from None
        keys += list((known.lookup(place.key_name) or {}).values())
    return keys


def _algorithms(key_type: str) -> tuple[str, ...]:
    return ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)


def _check_key(place: Place, known: list[paramiko.PKey], offered: paramiko.PKey) -> None:
    if offered in known:
        return
    port = f" -p {place.port}" if place.port != 22 else ""
    own = place.known_hosts[0]
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


def _authenticate(place: Place, transport: paramiko.Transport, deadline: float) -> None:
    tried: list[str] = []
    left: list[str] = []  # what the host still wants after a key of ours
    with contextlib.closing(_Keys(place)) as keys:
        for label, key in keys:
            if time.monotonic() >= deadline:
                raise HostError(f"host {place.name}: no log-in within {place.deadline_s:.0f} s", passing=True)
            try:
                left = list(transport.auth_publickey(place.user, key))
                if not left:
                    return
                break
            except paramiko.BadAuthenticationType as error:
                left = list(error.allowed_types)
                break
            except paramiko.AuthenticationException:
                tried.append(label)
    if _password_login(place, transport):
        return
    offered = f"refuses every key that was offered ({', '.join(tried)})" if tried else "has been offered no key"
    more = "".join(f"; {line}" for line in keys.trouble)
    also = f"; it wants {' or '.join(left)}" if left else ""
    raise HostError(
        f"host {place.name}: {place.user}@{place.address} {offered}{also}{more}; give a key (identity_files, "
        f"ssh-agent) or set {PASSWORD_VARIABLE}"
    )


class _Keys:
    """The keys to offer, with what a person calls them. A key file of the user's may be damaged or locked."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._agent: paramiko.Agent | None = None
        self.trouble: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, paramiko.PKey]]:
        for path in self._place.identity_files if self._place.named else ():
            yield from self._load(path)
        if self._place.agent:
            with contextlib.suppress(paramiko.SSHException, OSError):
                self._agent = paramiko.Agent()
            for key in self._agent.get_keys() if self._agent else ():
                yield f"agent's {key.fingerprint}", key
        for path in () if self._place.named else self._place.identity_files:
            yield from self._load(path)

    def _load(self, path: Path) -> Iterator[tuple[str, paramiko.PKey]]:
        try:
            yield str(path), paramiko.PKey.from_path(path)
        except (paramiko.PasswordRequiredException, TypeError):
            self.trouble.append(f"{path} has a passphrase: ssh-add {path}")
        except PermissionError:
            self.trouble.append(f"{path} cannot be read: permission denied")
        except Exception as error:  # whatever a parser says of a file that is no key
            self.trouble.append(f"{path} is no usable key: {str(error) or type(error).__name__}")

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()


def _password_login(place: Place, transport: paramiko.Transport) -> bool:
    who = (place.user, place.address, place.port)
    password = os.environ.get(PASSWORD_VARIABLE) or _passwords.get(who)
    asked = password is None and sys.stdin is not None and sys.stdin.isatty()
    if asked:
        try:
            password = getpass.getpass(f"Password of {place.user}@{place.address}: ")
        except (EOFError, KeyboardInterrupt):
            return False
    if not password:
        return False
    try:
        transport.auth_password(place.user, password)
    except paramiko.BadAuthenticationType:
        return False
    except paramiko.AuthenticationException:
        raise HostError(f"host {place.name}: {place.user}@{place.address} refuses the password") from None
    if asked:
        _passwords[who] = password
    return True


def _drop(transport: paramiko.Transport | None, sock: socket.socket | paramiko.Channel) -> None:
    if transport is not None:
        with contextlib.suppress(Exception):
            transport.close()
    with contextlib.suppress(Exception):
        sock.close()
