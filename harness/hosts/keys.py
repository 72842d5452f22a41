"""The keys to offer a host: of files, and of ssh-agent."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko

from harness.hosts.ssh_config import Place


class Keys:
    """Each with what a person calls it. A key file of the user's may be damaged or locked: `trouble` says so."""

    def __init__(self, place: Place, deadline: float) -> None:
        self._place = place
        self._deadline = deadline
        self._agent: _Agent | None = None
        self.trouble: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, paramiko.PKey]]:
        for path in self._place.identity_files if self._place.named else ():
            yield from self._load(path)
        if self._place.agent and "SSH_AUTH_SOCK" in os.environ:
            self._agent = _Agent()
            try:
                self._agent.ask(max(self._deadline - time.monotonic(), 0.1))
            except (paramiko.SSHException, OSError) as error:
                self.trouble.append(f"the agent cannot be used: {error}")
            wanted = {_public(path) for path in self._place.identity_files} if self._place.named_only else None
            for key in self._agent.get_keys():
                if wanted is None or key.asbytes() in wanted:
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
        """Hangs up on the agent."""
        if self._agent is not None:
            self._agent.close()


class _Agent(paramiko.agent.AgentSSH):
    """paramiko.Agent, which would wait for ever for an agent that does not answer."""

    def ask(self, deadline_s: float) -> None:
        """Connects and asks for its keys."""
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(deadline_s)
        try:
            line.connect(os.environ["SSH_AUTH_SOCK"])
            self._connect(line)  # type: ignore[attr-defined]
        except BaseException:
            line.close()
            raise

    def close(self) -> None:
        """Hangs up."""
        self._close()  # type: ignore[attr-defined]


def _public(path: Path) -> bytes | None:
    """The public half of a key, which lies next to it, or is all there is of a key that only the agent has."""
    for file in (path.with_name(f"{path.name}.pub"), path):
        with contextlib.suppress(Exception):
            return paramiko.pkey.PublicBlob.from_file(str(file)).key_blob
    return None
