"""The keys of a simulated host: OpenSSH's format for the user's, Dropbear's for the host's."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KIND = b"ssh-ed25519"


@dataclass(frozen=True)
class KeyPair:
    """One Ed25519 key."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> KeyPair:
        """A new one."""
        return cls(Ed25519PrivateKey.generate())

    def openssh_private(self) -> bytes:
        """As in ~/.ssh/id_ed25519."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    def dropbear_private(self) -> bytes:
        """As in /etc/dropbear/dropbear_ed25519_host_key: the kind, then seed and public key as one string."""
        seed = self.private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return _string(KIND) + _string(seed + self._public())

    def public_line(self) -> str:
        """As in authorized_keys and known_hosts: kind and key."""
        return f"{KIND.decode()} {base64.b64encode(_string(KIND) + _string(self._public())).decode()}"

    def _public(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
