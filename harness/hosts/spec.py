"""A host as a run sees it: where it is, what runs there, and what is allowed. From a lab file or an ssh:// URL."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

VMMS = {"kvm": ("small", "qemu"), "xen": ("pvh", "hvm")}
"""The VMMs of each kind of L0, the default first."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*\Z")
TRUTH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class SpecError(ValueError):
    """What is said of a host makes no sense. The text is one line for people."""


@dataclass(frozen=True)
class HostSpec:
    """One host. None for address, user and port: what ~/.ssh/config says, else `name`, the present user, 22."""

    name: str
    address: str | None = None
    port: int | None = None
    user: str | None = None
    l0: str = "kvm"
    vmm: str = ""
    vmm_path: str | None = None
    vmm_args: tuple[str, ...] = ()
    cpu: str | None = None
    identity_files: tuple[Path, ...] = ()
    known_hosts: tuple[Path, ...] = ()
    proxy_jump: str | None = None
    connect_deadline_s: float = 20.0
    boot_deadline_s: float = 20.0
    round_trip_s: float = 0.03
    grace_s: float = 120.0
    power_command: str | None = None
    workdir: str = "/dev/shm/nsvm"
    workers: int = 1
    tracepoints: bool = True
    memory_mib: int = 64
    cpus_max: int = 2
    use_agent: bool = True
    use_ssh_config: bool = True

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise SpecError(f"{self.name!r} is no name for a host (letters, digits, '.', '_', '-', '@', '+')")
        if self.l0 not in VMMS:
            raise SpecError(f"host {self.name}: l0 is {self.l0!r}; there are {', '.join(VMMS)}")
        if not self.vmm:
            object.__setattr__(self, "vmm", VMMS[self.l0][0])
        if self.vmm not in VMMS[self.l0]:
            allowed = ", ".join(VMMS[self.l0])
            raise SpecError(f"host {self.name}: vmm is {self.vmm!r}; with l0 = {self.l0} there are {allowed}")
        if self.port is not None and not 0 < self.port < 65536:
            raise SpecError(f"host {self.name}: {self.port} is no port")
        if self.address is not None and (not self.address or self.address.startswith("-") or "\0" in self.address):
            raise SpecError(f"host {self.name}: {self.address!r} is no address")
        if not re.match(r"/[A-Za-z0-9._/-]*[A-Za-z0-9_-]\Z", self.workdir) or ".." in self.workdir.split("/"):
            raise SpecError(f"host {self.name}: workdir must be an absolute path, not {self.workdir!r}")
        if self.workdir.count("/") < 2:
            raise SpecError(f"host {self.name}: workdir {self.workdir!r} is removed after a run: give one of its own")
        for key in ("connect_deadline_s", "boot_deadline_s", "round_trip_s"):
            if not 0 < getattr(self, key) <= 3600:
                raise SpecError(f"host {self.name}: {key} must be more than 0 and at most 3600 seconds")
        if not 0 <= self.grace_s <= 7200:
            raise SpecError(f"host {self.name}: grace_s must be 0 to 7200 seconds")
        for key, least, most in (("workers", 1, 64), ("memory_mib", 16, 4096), ("cpus_max", 1, 64)):
            if not least <= getattr(self, key) <= most:
                raise SpecError(f"host {self.name}: {key} must be {least} to {most}")


_FIELDS = {field.name: field for field in dataclasses.fields(HostSpec) if field.name != "name"}


def from_table(name: str, table: Mapping[str, Any], base: Path) -> HostSpec:
    """A host from its table in a lab file, whose folder is `base`. Raises SpecError."""
    return HostSpec(name, **{key: _value(name, key, value, base) for key, value in table.items()})


def from_url(url: str) -> HostSpec:
    """A host from ssh://[user@]host[:port]?l0=kvm&vmm=small; lists are separated by commas. Raises SpecError."""
    if re.match(r"ssh://[^@?#]*:[^@?#]*@", url):  # before anything else, as other complaints repeat the URL
        raise SpecError("a password in a target's name would be seen by everyone: set NSVM_SSH_PASSWORD instead")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SpecError(f"{url}: {error}") from None
    if parts.scheme != "ssh" or not parts.hostname or parts.path not in ("", "/") or parts.fragment:
        raise SpecError(f"{url}: write ssh://user@host:port?l0=kvm&vmm=small")
    host = parts.netloc.rpartition("@")[2]
    address = unquote(parts.hostname if host.startswith("[") else host.partition(":")[0])
    table: dict[str, Any] = {"address": address}
    if port is not None:
        table["port"] = port
    if parts.username:
        table["user"] = unquote(parts.username)
    try:
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise SpecError(f"{url}: write options as ?l0=kvm&vmm=small") from None
    for key, value in query:
        if key in ("address", "port", "user"):
            raise SpecError(f"{url}: {key} stands before the question mark")
        if key == "power_command":
            raise SpecError(f"{url}: power_command belongs into a lab file")
        table[key] = _parsed(url, key, value)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", address).strip("-.") or "host"
    return from_table(name if port is None else f"{name}-{port}", table, Path.cwd())


def _value(name: str, key: str, value: Any, base: Path) -> Any:
    if key not in _FIELDS:
        raise SpecError(f"host {name}: {key!r} is no key; there are {', '.join(_FIELDS)}")
    kind = str(_FIELDS[key].type)
    if kind.startswith("tuple"):
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise SpecError(f"host {name}: {key} must be a list of texts")
        return tuple((base / Path(item).expanduser()) if "Path" in kind else item for item in items)
    wanted: tuple[type, ...] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}[kind.split()[0]]
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        said = {str: "text in quotes", int: "a whole number", bool: "true or false", float: "a number"}[wanted[-1]]
        raise SpecError(f"host {name}: {key} must be {said}, not {value!r}")
    return float(value) if kind == "float" and isinstance(value, int) else value


def _parsed(url: str, key: str, text: str) -> Any:
    kind = str(_FIELDS[key].type).split()[0] if key in _FIELDS else "str"
    try:
        match kind:
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "bool":
                return TRUTH[text.lower()]
    except (ValueError, KeyError):
        raise SpecError(f"{url}: {text!r} is no value for {key}") from None
    return [item for item in text.split(",") if item] if kind.startswith("tuple") else text
