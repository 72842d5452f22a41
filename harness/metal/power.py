"""Power: a machine is switched on and off, and asked which it is. A driver for each way there is in a lab.

A driver is made from `[metal.NAME.power]`, whose `driver` names it. All of them raise MetalError.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from harness.metal.error import MetalError
from harness.metal.http import Http
from harness.metal.run import run
from harness.metal.table import make

STATE_DEADLINE_S = 30.0
POLL_S = 1.0


class Power(Protocol):
    """One machine's power."""

    def on(self) -> None:
        """Switches it on; nothing where it is."""

    def off(self) -> None:
        """Switches it off hard; nothing where it is."""

    def state(self) -> bool | None:
        """Whether it is on; None where nobody can say."""


@dataclass(frozen=True)
class Commands:
    """Commands, run here. `state` prints "on" or "off" somewhere in its output."""

    what: str
    on_command: str
    off_command: str
    state_command: str = ""

    def on(self) -> None:
        """See Power."""
        run(f"{self.what}: on_command", self.on_command)

    def off(self) -> None:
        """See Power."""
        run(f"{self.what}: off_command", self.off_command)

    def state(self) -> bool | None:
        """See Power."""
        if not self.state_command:
            return None
        words = run(f"{self.what}: state_command", self.state_command).lower().replace(".", " ").split()
        return "on" in words if {"on", "off"} & set(words) else None


@dataclass(frozen=True)
class Ipmi:
    """A BMC over IPMI, by ipmitool(1). The password is read from a file, and is in no argument list."""

    what: str
    address: str
    user: str
    password_file: str
    port: int = 623
    interface: str = "lanplus"
    cipher: int = 17

    def on(self) -> None:
        """See Power."""
        self._chassis("on")

    def off(self) -> None:
        """See Power."""
        self._chassis("off")

    def state(self) -> bool | None:
        """See Power."""
        said = self._chassis("status")
        return True if "is on" in said else False if "is off" in said else None

    def _chassis(self, verb: str) -> str:
        return run(self.what, shlex.join([*self.argv(), "chassis", "power", verb]))

    def argv(self) -> list[str]:
        """ipmitool with all that reaches the BMC."""
        path = str(Path(self.password_file).expanduser())
        cipher = ["-C", str(self.cipher)] if self.interface == "lanplus" else []
        where = ["-H", self.address, "-p", str(self.port), "-U", self.user, "-f", path]
        return ["ipmitool", "-I", self.interface, *cipher, *where]


@dataclass(frozen=True)
class Redfish:
    """A BMC over Redfish: ComputerSystem.Reset of one system. `system` may be left out where there is one only."""

    what: str
    url: str
    user: str = ""
    password_file: str = ""
    system: str = ""
    insecure: bool = False

    def on(self) -> None:
        """See Power."""
        self._reset("On", wanted=True)

    def off(self) -> None:
        """See Power."""
        self._reset("ForceOff", wanted=False)

    def state(self) -> bool | None:
        """See Power."""
        said = self.http().get(self.path()).get("PowerState")
        return {"On": True, "PoweringOff": True, "Off": False, "PoweringOn": False}.get(str(said))

    def http(self) -> Http:
        """The way to the BMC."""
        return Http(self.what, self.url, self.user, self.password_file, insecure=self.insecure)

    def path(self) -> str:
        """Of the system."""
        if self.system:
            return f"/redfish/v1/Systems/{quote(self.system)}"
        members = self.http().get("/redfish/v1/Systems").get("Members", [])
        if len(members) != 1:
            names = ", ".join(str(each.get("@odata.id", "")).rpartition("/")[2] for each in members) or "none"
            raise MetalError(f"{self.what}: say which system: system = NAME; there are {names}")
        return str(members[0]["@odata.id"])

    def _reset(self, kind: str, *, wanted: bool) -> None:
        if self.state() is not wanted:
            self.http().post(f"{self.path()}/Actions/ComputerSystem.Reset", {"ResetType": kind})


@dataclass(frozen=True)
class Pdu:
    """A socket of a PDU, by PDUDaemon's HTTP. It does not say whether a socket is on."""

    what: str
    url: str
    hostname: str
    port: str

    def on(self) -> None:
        """See Power."""
        self._request("on")

    def off(self) -> None:
        """See Power."""
        self._request("off")

    def state(self) -> bool | None:
        """See Power."""
        return None

    def _request(self, verb: str) -> None:
        which = urlencode({"hostname": self.hostname, "port": self.port})
        Http(self.what, self.url).fetch("GET", f"/power/control/{verb}?{which}")


DRIVERS: dict[str, type[Any]] = {"command": Commands, "ipmi": Ipmi, "redfish": Redfish, "pdudaemon": Pdu}


def from_table(what: str, table: Mapping[str, Any]) -> Power:
    """The driver that a table names. Raises MetalError."""
    name = table.get("driver")
    if name not in DRIVERS:
        raise MetalError(f"{what}: driver is {name!r}; there are {', '.join(DRIVERS)}")
    power: Power = make(DRIVERS[name], what, {key: value for key, value in table.items() if key != "driver"})
    return power


def cycle(
    power: Power,
    off_s: float,
    *,
    while_off: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Off, for `off_s` seconds, and on again. Raises MetalError: also where the machine is not what it was told.

    `while_off` is called right before the power comes back.
    """
    power.off()
    _await(power, False, clock, sleep)
    sleep(off_s)
    while_off()
    power.on()
    _await(power, True, clock, sleep)


def _await(power: Power, wanted: bool, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    end = clock() + STATE_DEADLINE_S
    while (state := power.state()) is not None and state is not wanted:
        if clock() >= end:
            told, still = ("on", "off") if wanted else ("off", "on")
            raise MetalError(f"it was switched {told}, and is still {still} after {STATE_DEADLINE_S:.0f} s")
        sleep(POLL_S)
