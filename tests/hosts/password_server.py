"""An SSH server in a thread that takes a password: OpenSSH's takes only those of the machine's own users."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import paramiko

from harness.hosts.spec import HostSpec


class PasswordServer(paramiko.ServerInterface):
    """On 127.0.0.1, until stop(). `tried` are the passwords that were offered."""

    def __init__(self, folder: Path, password: str) -> None:
        self.tried: list[str] = []
        self._password = password
        self._key = paramiko.ECDSAKey.generate()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._known_hosts = folder / "known_hosts_of_the_password_server"
        line = f"[127.0.0.1]:{self.port} {self._key.get_name()} {self._key.get_base64()}\n"
        self._known_hosts.write_text(line)
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def spec(self) -> HostSpec:
        """How to get there."""
        return HostSpec(
            "lab",
            address="127.0.0.1",
            port=self.port,
            user="somebody",
            known_hosts=(self._known_hosts,),
            use_agent=False,
            use_ssh_config=False,
        )

    def stop(self) -> None:
        """Ends it, and every connection."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(20)
        for transport in self._transports:
            transport.close()

    def get_allowed_auths(self, username: str) -> str:
        """See paramiko."""
        return "publickey,password"

    def check_auth_password(self, username: str, password: str) -> int:
        """See paramiko."""
        self.tried.append(password)
        right = (username, password) == ("somebody", self._password)
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def _serve(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            transport = paramiko.Transport(connected)
            transport.daemon = True
            transport.add_server_key(self._key)
            self._transports.append(transport)
            transport.start_server(server=self)
