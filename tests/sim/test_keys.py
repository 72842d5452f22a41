"""Keys, in the formats of those who read them."""

from __future__ import annotations

import io
import struct

import paramiko

from harness.sim.keys import KeyPair


def test_the_users_key_is_openssh() -> None:
    pair = KeyPair.generate()
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(pair.openssh_private().decode()))
    assert f"ssh-ed25519 {key.get_base64()}" == pair.public_line()


def test_the_hosts_key_is_dropbears() -> None:
    pair = KeyPair.generate()
    data = pair.dropbear_private()
    assert data[:15] == b"\0\0\0\x0bssh-ed25519"
    assert struct.unpack(">I", data[15:19]) == (64,)
    assert len(data) == 19 + 64
    public = paramiko.Ed25519Key.from_private_key(io.StringIO(pair.openssh_private().decode()))
    assert public.asbytes().endswith(data[-32:])
