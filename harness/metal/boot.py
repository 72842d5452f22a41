"""Ways to have a machine boot the executor once, and its own operating system afterwards.

A driver is made from `[metal.NAME.boot]`, whose `driver` names it. All of them raise MetalError.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.metal.error import MetalError
from harness.metal.image import make_iso
from harness.metal.lines import BUNDLE, ELF, grub_entry, ipxe_script, kexec_line
from harness.metal.power import Redfish
from harness.metal.run import run
from harness.metal.table import make

REMOTE = "/dev/shm/nsvm-metal"
RUN_S = 60.0


@dataclass(frozen=True)
class Load:
    """What is to be booted. `command_line` is the executor's; `bundle` its boot module, if any."""

    executor: Path
    command_line: str = ""
    bundle: Path | None = None


class Boot(Protocol):
    """One way to boot."""

    needs_os: bool
    """Whether it goes by the machine's own operating system, which must be up."""

    def arm(self, load: Load, host: Connection | None) -> bool:
        """Sees to it that the next boot is ours. True if it begins by itself, without a power cycle."""

    def disarm(self, host: Connection | None) -> None:
        """Sees to it that the next boot is the machine's own again. Called once for each arm()."""


@dataclass
class Kexec:
    """kexec(8) from the running Linux."""

    what: str
    kexec: str = "kexec"
    needs_os = True

    def arm(self, load: Load, host: Connection | None) -> bool:
        """See Boot."""
        assert host is not None
        names = _upload(host, load)
        loaded = host.run(kexec_line(self.kexec, names, load.command_line), deadline_s=RUN_S)
        if loaded.status != 0:
            raise MetalError(f"{self.what}: kexec -l: {loaded.complaint or loaded.text or loaded.status}")
        # It must outlive the connection, which ends with the kernel.
        host.run(f"sync; (sleep 1; {self.kexec} -e) >/dev/null 2>&1 </dev/null &", deadline_s=RUN_S)
        return True

    def disarm(self, host: Connection | None) -> None:
        """See Boot. Nothing was changed."""


@dataclass
class Grub:
    """A one-shot entry of the machine's own GRUB: grub-reboot(8), then a restart."""

    what: str
    entry: str = "nsvm"
    folder: str = "/boot/nsvm"
    reboot: str = "systemctl reboot || reboot"
    needs_os = True

    def arm(self, load: Load, host: Connection | None) -> bool:
        """See Boot."""
        assert host is not None
        names = _upload(host, load, self.folder)
        path = "/etc/grub.d/42_nsvm"
        script = f"#!/bin/sh\ncat <<'EOF'\n{grub_entry(self.entry, names, load.command_line)}EOF\n"
        host.upload(script.encode(), path, 0o755)
        update = "update-grub || grub2-mkconfig -o /boot/grub2/grub.cfg"
        for command in (f"({update}) >/dev/null 2>&1", f"grub-reboot {self.entry} || grub2-reboot {self.entry}"):
            ran = host.run(command, deadline_s=RUN_S)
            if ran.status != 0:
                raise MetalError(
                    f"{self.what}: {command}: {ran.complaint or ran.status}; is it GRUB, with GRUB_DEFAULT=saved?"
                )
        host.run(f"(sleep 1; {self.reboot}) >/dev/null 2>&1 </dev/null &", deadline_s=RUN_S)
        return True

    def disarm(self, host: Connection | None) -> None:
        """See Boot: once its own OS is back, the entry and the files go."""
        if host is not None:
            host.run(
                f"rm -rf {shlex.quote(self.folder)} /etc/grub.d/42_nsvm; "
                "(update-grub || grub2-mkconfig -o /boot/grub2/grub.cfg) >/dev/null 2>&1",
                deadline_s=RUN_S,
            )


@dataclass
class Files:
    """`grub.cfg`, `boot.ipxe` and the executor, put into a folder that a TFTP or HTTP server of the lab serves.

    What lay there under these names comes back afterwards. `url` is what GRUB and iPXE find the folder under:
    "(tftp)/zen4-b" and "tftp://${next-server}/zen4-b"; without it, the folder itself.
    """

    what: str
    folder: str
    grub_prefix: str = ""
    ipxe_url: str = "tftp://${next-server}"
    needs_os = False

    def arm(self, load: Load, host: Connection | None) -> bool:
        """See Boot."""
        folder = self._folder()
        written: dict[str, bytes] = {ELF: load.executor.read_bytes()}
        names = [ELF]
        if load.bundle is not None:
            written[BUNDLE] = load.bundle.read_bytes()
            names.append(BUNDLE)
        entry = grub_entry("nsvm", [f"{self.grub_prefix}/{name}" for name in names], load.command_line)
        written["grub.cfg"] = f"set timeout=0\n{entry}".encode()
        written["boot.ipxe"] = ipxe_script(self.ipxe_url, names, load.command_line).encode()
        try:
            for name, content in written.items():
                _keep(folder / name)
                _write(folder / name, content)
        except OSError as error:
            raise MetalError(f"{self.what}: {folder} cannot be written: {error.strerror}") from None
        return False

    def disarm(self, host: Connection | None) -> None:
        """See Boot."""
        folder = self._folder()
        for name in (ELF, BUNDLE, "grub.cfg", "boot.ipxe"):
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
                kept = _kept(folder / name)
                if kept.exists():
                    kept.replace(folder / name)

    def _folder(self) -> Path:
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise MetalError(f"{self.what}: there is no folder {folder}")
        return folder


@dataclass
class Media:
    """A boot image as virtual media over Redfish, for one boot. `image_url` is where the BMC finds `image`."""

    what: str
    url: str
    image: str
    image_url: str
    user: str = ""
    password_file: str = ""
    system: str = ""
    manager: str = ""
    device: str = "Cd"
    insecure: bool = False
    needs_os = False

    def arm(self, load: Load, host: Connection | None) -> bool:
        """See Boot."""
        make_iso(Path(self.image).expanduser(), load.executor, load.command_line, load.bundle)
        bmc, http = self._bmc(), self._bmc().http()
        media = self._media()
        if self.inserted():
            http.post(f"{media}/Actions/VirtualMedia.EjectMedia", {})
        http.post(f"{media}/Actions/VirtualMedia.InsertMedia", {"Image": self.image_url, "Inserted": True})
        boot = {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Cd"}
        http.patch(bmc.path(), {"Boot": boot})
        return False

    def disarm(self, host: Connection | None) -> None:
        """See Boot."""
        bmc, http = self._bmc(), self._bmc().http()
        http.patch(bmc.path(), {"Boot": {"BootSourceOverrideEnabled": "Disabled"}})
        http.post(f"{self._media()}/Actions/VirtualMedia.EjectMedia", {})

    def inserted(self) -> bool:
        """Whether the virtual drive holds something. Raises MetalError."""
        return bool(self._bmc().http().get(self._media()).get("Inserted"))

    def _bmc(self) -> Redfish:
        return Redfish(self.what, self.url, self.user, self.password_file, system=self.system, insecure=self.insecure)

    def _media(self) -> str:
        http = self._bmc().http()
        manager = f"/redfish/v1/Managers/{self.manager}" if self.manager else ""
        if not manager:
            members = http.get("/redfish/v1/Managers").get("Members", [])
            if len(members) != 1:
                raise MetalError(f"{self.what}: say which manager: manager = NAME; there are {len(members)}")
            manager = str(members[0]["@odata.id"])
        return f"{manager}/VirtualMedia/{self.device}"


@dataclass
class Command:
    """Commands, run here: one that sees to it that the next boot is ours, one that takes it back.

    They find the executor and its command line as $NSVM_EXECUTOR and $NSVM_COMMAND_LINE.
    """

    what: str
    arm_command: str
    disarm_command: str
    needs_os = False

    def arm(self, load: Load, host: Connection | None) -> bool:
        """See Boot."""
        more = {"NSVM_EXECUTOR": str(load.executor), "NSVM_COMMAND_LINE": load.command_line}
        words = " ".join(shlex.quote(f"{name}={value}") for name, value in more.items())
        run(f"{self.what}: arm_command", f"env {words} {self.arm_command}")
        return False

    def disarm(self, host: Connection | None) -> None:
        """See Boot."""
        run(f"{self.what}: disarm_command", self.disarm_command)


DRIVERS: dict[str, type[Any]] = {
    "kexec": Kexec, "grub": Grub, "files": Files, "virtual-media": Media, "command": Command,
}  # fmt: skip


def from_table(what: str, table: Mapping[str, Any]) -> Boot:
    """The driver that a table names. Raises MetalError."""
    name = table.get("driver")
    if name not in DRIVERS:
        raise MetalError(f"{what}: driver is {name!r}; there are {', '.join(DRIVERS)}")
    boot: Boot = make(DRIVERS[name], what, {key: value for key, value in table.items() if key != "driver"})
    return boot


def _upload(host: Connection, load: Load, folder: str = REMOTE) -> list[str]:
    """Puts the executor there; its path, and the bundle's."""
    try:
        made = host.run(f"mkdir -p {shlex.quote(folder)}")
        if made.status != 0:
            raise MetalError(f"host {host.name}: {folder}: {made.complaint}")
        sent = [(load.executor, ELF), *([(load.bundle, BUNDLE)] if load.bundle is not None else [])]
        for path, name in sent:
            host.upload(path.read_bytes(), f"{folder}/{name}")
        return [f"{folder}/{name}" for _, name in sent]
    except HostError as error:
        raise MetalError(str(error), error.log) from None


def _kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-nsvm")


def _keep(path: Path) -> None:
    """Sets aside what lies there, once."""
    if path.exists() and not _kept(path).exists() and not _ours(path):
        shutil.copy2(path, _kept(path))


def _ours(path: Path) -> bool:
    """Whether a run that was killed has left it: our executor, or a file that boots it."""
    content = path.read_bytes()
    return b"NSVMBNDL" in content or (len(content) < 4096 and ELF.encode() in content)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and readable for a server."""
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with open(handle, "wb") as file:
        file.write(content)
    os.chmod(draft, 0o644)
    os.replace(draft, path)
