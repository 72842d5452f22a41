"""Where a host is and how to log in there: the lab file's word first, then ~/.ssh/config, then ssh's own defaults."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from harness.hosts.errors import HostError
from harness.hosts.spec import HostSpec

GLOBAL_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
JUMP = re.compile(r"(?:(?P<user>[^@]+)@)?(?P<host>\[[^]]+\]|[^:@]+)(?::(?P<port>\d+))?\Z")
JUMPS_MAX = 8


@dataclass(frozen=True)
class Place:
    """All that ssh has to know about a host. `identity_files` exist; `named` says that somebody asked for them.

    `named_only`: of the agent's keys only those that are in `identity_files` too.
    """

    name: str
    address: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    named: bool
    known_hosts: tuple[Path, ...]
    agent: bool
    named_only: bool
    proxy: Place | None
    deadline_s: float

    @property
    def key_name(self) -> str:
        """What it is called in known_hosts."""
        address = self.address.lower()
        return address if self.port == 22 else f"[{address}]:{self.port}"

    def ssh(self, *, batch: bool = False) -> list[str]:
        """The ssh command that goes there, as a person would type it."""
        argv = ["ssh", *(["-o", "BatchMode=yes"] if batch else [])]
        argv += ["-p", str(self.port)] if self.port != 22 else []
        for path in self.identity_files if self.named else ():
            argv += ["-i", str(path)]
        if self.known_hosts != default_known_hosts():
            argv += ["-o", f"UserKnownHostsFile={' '.join(map(str, self.known_hosts))}"]
        if self.proxy is not None:
            argv += ["-J", ",".join(_jumps(self.proxy))]
        return [*argv, f"{self.user}@{self.address}"]


def resolve(spec: HostSpec) -> Place:
    """Where the host is. Raises HostError."""
    return _resolve(spec, 0)


def default_known_hosts() -> tuple[Path, ...]:
    """The files that ssh itself reads."""
    return (Path.home() / ".ssh/known_hosts", GLOBAL_KNOWN_HOSTS)


def _resolve(spec: HostSpec, depth: int) -> Place:
    if depth > JUMPS_MAX:
        raise HostError(f"host {spec.name}: more than {JUMPS_MAX} hosts to jump over; does ProxyJump go in a circle?")
    says = _config(spec)
    port = str(spec.port or says.get("port", 22))
    if not port.isdigit():
        raise HostError(f"host {spec.name}: ~/.ssh/config says port {port!r}")
    own = [path.expanduser() for path in spec.identity_files]
    for path in own:
        if not path.is_file():
            raise HostError(f"host {spec.name}: the key file {path} is not there")
    named = own or [path for text in says.get("identityfile", []) if (path := Path(text).expanduser()).is_file()]
    defaults = [path for name in DEFAULT_KEYS if (path := Path.home() / ".ssh" / name).is_file()]
    known = tuple(path.expanduser() for path in spec.known_hosts)
    if not known and "userknownhostsfile" in says:
        known = (*(Path(text).expanduser() for text in says["userknownhostsfile"].split()), GLOBAL_KNOWN_HOSTS)
    return Place(
        name=spec.name,
        address=says.get("hostname", spec.address or spec.name),
        port=int(port),
        user=spec.user or says.get("user") or getpass.getuser(),
        identity_files=tuple(named or defaults),
        named=bool(named),
        known_hosts=known or default_known_hosts(),
        agent=spec.use_agent,
        named_only=says.get("identitiesonly", "no").lower() == "yes",
        proxy=_proxy(spec, says, depth),
        deadline_s=spec.connect_deadline_s,
    )


def _config(spec: HostSpec) -> paramiko.SSHConfigDict:
    path = Path.home() / ".ssh/config"
    if not spec.use_ssh_config or not path.is_file():
        return paramiko.SSHConfigDict()
    try:
        return paramiko.SSHConfig.from_path(str(path)).lookup(spec.address or spec.name)
    except Exception as error:  # a file of somebody else's: whatever is wrong in it is one line
        raise HostError(
            f"host {spec.name}: {path} cannot be used: {error} (use_ssh_config = false ignores it)"
        ) from None


def _proxy(spec: HostSpec, says: paramiko.SSHConfigDict, depth: int) -> Place | None:
    jumps = spec.proxy_jump if spec.proxy_jump is not None else says.get("proxyjump")
    if not jumps or jumps.lower() == "none":
        command = says.get("proxycommand")
        if spec.proxy_jump is None and command and command.lower() != "none":
            raise HostError(f"host {spec.name}: ~/.ssh/config has a ProxyCommand for it, which is not honoured here")
        return None
    first, _, last = jumps.rpartition(",")
    found = JUMP.match(last.removeprefix("ssh://").strip())
    if found is None:
        raise HostError(f"host {spec.name}: {last!r} is no host to jump over (user@host:port)")
    through = replace(
        spec,
        name=re.sub(r"[^A-Za-z0-9._-]", "-", found["host"]).strip("-.") or "jump",
        address=found["host"].strip("[]"),
        user=found["user"],
        port=int(found["port"]) if found["port"] else None,
        proxy_jump=first or None,
    )
    return _resolve(through, depth + 1)


def _jumps(place: Place) -> list[str]:
    before = _jumps(place.proxy) if place.proxy is not None else []
    host = f"[{place.address}]" if ":" in place.address else place.address
    return [*before, f"{place.user}@{host}:{place.port}"]
