"""From a place to a transport that is logged in: TCP, the host's key, ours. Each failure is one line."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import sys
import time

import paramiko

from harness.hosts.errors import HostError
from harness.hosts.keys import Keys
from harness.hosts.known_hosts import check_key, known_keys
from harness.hosts.ssh_config import Place

PASSWORD_VARIABLE = "NSVM_SSH_PASSWORD"
LOGGER = "nsvm.ssh"
USER_TIMEOUT_MS = 15_000

logging.getLogger(LOGGER).addHandler(logging.NullHandler())
logging.getLogger(LOGGER).propagate = False

_passwords: dict[tuple[str, str, int], str] = {}  # what a person has typed, for reconnecting; nowhere else


def typed_passwords() -> dict[tuple[str, str, int], str]:
    """What a person has typed in this process, by user, address and port."""
    return dict(_passwords)


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
        known = known_keys(place)
        transport = paramiko.Transport(sock)
        transport.set_log_channel(LOGGER)
        transport.daemon = True
        transport.banner_timeout = transport.handshake_timeout = max(deadline_s, 0.1)
        if known:
            options = transport.get_security_options()
            wanted = {name for key in known for name in _algorithms(key.get_name())}
            options.key_types = sorted(options.key_types, key=lambda name: name not in wanted)
        transport.start_client(timeout=max(deadline_s, 0.1))
        check_key(place, transport.get_remote_server_key())
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


def _algorithms(key_type: str) -> tuple[str, ...]:
    return ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)


def _authenticate(place: Place, transport: paramiko.Transport, deadline: float) -> None:
    tried: list[str] = []
    left: list[str] = []  # what the host still wants after a key of ours
    with contextlib.closing(Keys(place, deadline)) as keys:
        for label, key in keys:
            transport.auth_timeout = max(deadline - time.monotonic(), 0.1)
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
                _check_line(place, transport, f"after it was offered {', '.join(tried)}")
                if time.monotonic() >= deadline:
                    raise HostError(
                        f"host {place.name}: no log-in within {place.deadline_s:.0f} s", passing=True
                    ) from None
    if _password_login(place, transport):
        return
    offered = f"refuses every key that was offered ({', '.join(tried)})" if tried else "has been offered no key"
    more = "".join(f"; {line}" for line in keys.trouble)
    also = f"; it wants {' or '.join(left)}" if left else ""
    raise HostError(
        f"host {place.name}: {place.user}@{place.address} {offered}{also}{more}; give a key (identity_files, "
        f"ssh-agent) or set {PASSWORD_VARIABLE}"
    )


def _check_line(place: Place, transport: paramiko.Transport, when: str) -> None:
    """A host that goes down refuses nothing; one that has seen too many keys hangs up."""
    if not transport.is_active():
        raise HostError(f"host {place.name}: {place.address} closed the connection {when}", passing=True)


def _password_login(place: Place, transport: paramiko.Transport) -> bool:
    who = (place.user, place.address, place.port)
    password = os.environ.get(PASSWORD_VARIABLE) or _passwords.get(who)
    asked = password is None and sys.stdin is not None and sys.stdin.isatty()
    if asked:
        with contextlib.suppress(EOFError):
            password = getpass.getpass(f"Password of {place.user}@{place.address}: ")
    if not password:
        return False
    transport.auth_timeout = place.deadline_s  # from now: a person may have been typing
    try:
        transport.auth_password(place.user, password)
    except paramiko.BadAuthenticationType:
        return False
    except paramiko.AuthenticationException:
        _check_line(place, transport, "when it was given the password")
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
