"""Building a simulated host: packages, initramfs, one cold boot, a look at what came up, and its state saved."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.sim import outer_qemu, probe
from harness.sim.error import Refused, SimError
from harness.sim.image import Image
from harness.sim.kernel import Kernel
from harness.sim.keys import KeyPair
from harness.sim.kvm_image import KvmImage
from harness.sim.lock import locked
from harness.sim.machine import OuterMachine
from harness.sim.outer_qemu import OuterQemu
from harness.sim.packages import Package, PackageView, unpack
from harness.sim.parameters import check_known
from harness.sim.root import FAILED, READY, Packages
from harness.sim.state import IMAGE_FORMAT, STATE, State, check_name, home, load
from harness.sim.wanted import SUITE, VMM_OF_QEMU, Wanted, digest, digest_folder
from harness.sim.xen_image import XenImage, xen_cpu

BOOT_DEADLINE_S = 240.0
SAVE_DEADLINE_S = 60.0
PROBE_DEADLINE_S = 60.0
MODULES_OF_JUDGES = ("msr",)
"""On the reference machine Linux judges the branch records, which it reads through /dev/cpu/0/msr."""

Say = Callable[[str], None]


def build(wanted: Wanted, say: Say, *, force: bool = False) -> tuple[State, bool]:
    """Builds what is wanted, or finds that it is there already: the state, and whether it was built now."""
    wanted.check()
    started = time.monotonic()
    kit = _Kit(wanted, say)
    kit.choose()
    name = check_name(wanted.name or kit.usual_name())
    with locked(home() / f".{name}.lock", lambda: say(f"sim:{name} is being built by somebody else: waiting for it")):
        if not force and (there := _unchanged(name, kit.inputs())):
            return there, False
        kit.get()
        draft = home() / f".{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)  # of a build that was killed
        draft.mkdir()
        try:
            state = kit.make(draft / name)
            state = dataclasses.replace(state, measured={**state.measured, "build_s": time.monotonic() - started})
            state.save()
            _put_in_place(draft / name, home() / name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return load(name), True


class _Kit:
    """One build."""

    def __init__(self, wanted: Wanted, say: Say) -> None:
        self._wanted = wanted
        self._say = say
        self._view = PackageView(wanted.suite, home() / ".packages" / wanted.suite)
        self._packages: list[Package] = []
        self._archives: list[Path] = []
        cpu = wanted.cpu or xen_cpu(wanted.outer_bits)
        self._image: Image = (
            XenImage(wanted.append, wanted.memory_mib, cpu, wanted.xen, qemu=wanted.with_qemu)
            if wanted.kind == "xen"
            else KvmImage(
                wanted.append,
                wanted.memory_mib,
                wanted.cpu,
                qemu=wanted.with_qemu,
                modules=MODULES_OF_JUDGES if wanted.outer else (),
            )
        )
        self._qemu: OuterQemu

    def choose(self) -> None:
        """Finds out which packages and which QEMU it will be."""
        home().mkdir(parents=True, exist_ok=True)
        with self._timed(f"reading the package lists of {self._wanted.suite}"):
            warning = self._view.refresh()
            if warning:
                self._say(f"warning: {warning}")
            self._packages = self._view.choose(self._image.packages(own_kernel=self._wanted.kernel is not None))
        self._qemu = self._find_qemu()

    def usual_name(self) -> str:
        """The name if none is given; it says what is unusual."""
        wanted = self._wanted
        own = wanted.kernel or wanted.xen or wanted.cpu or wanted.memory_mib
        if own or wanted.append or wanted.on_restore or wanted.vmm_args:
            raise SimError(f"an unusual build needs a name of its own: --name {wanted.kind}-mine")
        name = f"{wanted.kind}-{VMM_OF_QEMU[wanted.kind]}" if wanted.with_qemu else wanted.kind
        if wanted.suite != SUITE:
            name += f"@{self._image.version(self._packages)}"
        if wanted.outer:
            name += f"-on-{wanted.outer}"
        elif wanted.qemu or wanted.outer_suite:
            found = re.search(r"\d+\.\d+", self._qemu.version)
            name += f"-on-qemu-{found[0]}" if found else "-on-qemu"
        return name

    def inputs(self) -> str:
        """A hash of all that the state is made of."""
        return hashlib.sha256(json.dumps(self._made_of(), sort_keys=True).encode()).hexdigest()

    def get(self) -> None:
        """Downloads what is missing."""
        missing = self._view.missing(self._packages)
        size = sum(package.size for package in missing)
        if missing:
            with self._timed(f"downloading {len(missing)} packages, {size / 1e6:.0f} MB"):
                self._archives = self._view.fetch(self._packages)
        else:
            self._archives = self._view.fetch(self._packages)

    def make(self, directory: Path) -> State:
        """Makes the files, boots, looks, saves."""
        directory.mkdir()
        user, host = KeyPair.generate(), KeyPair.generate()
        with self._timed("assembling the image"), tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            trees = []
            for archive in self._archives:
                trees.append(Path(scratch) / archive.name)
                unpack(archive, trees[-1])
            packages = Packages(trees)
            kernel = self._kernel(packages, Path(scratch))
            files = self._image.files(kernel, packages, self._wanted.suite, user, host)
            for name, data in files.items():
                (directory / name).write_bytes(data)
        (directory / "id").touch(mode=0o600)
        (directory / "id").write_bytes(user.openssh_private())
        (directory / "id.pub").write_text(user.public_line() + "\n")
        state = State(
            directory=directory,
            kind=self._wanted.kind,
            suite=self._wanted.suite,
            inputs=self.inputs(),
            argv=(*self._qemu.command, *self._image.argv()),
            qemu_version=self._qemu.version,
            qemu_stamp=self._qemu.stamp(),
            l0_version="",
            l0_version_tuple=(),
            host_key=host.public_line(),
            paused=self._image.paused,
            vmm=VMM_OF_QEMU[self._wanted.kind] if self._wanted.with_qemu else "",
            built=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            made_of=self._made_of(),
            command=self._wanted.command(),
            append=self._wanted.append,
            on_restore=self._wanted.on_restore,
            vmm_args=self._wanted.vmm_args,
        )
        return self._boot(state)

    def _boot(self, state: State) -> State:
        machine = OuterMachine(state)
        try:
            with self._timed("booting it on the emulated machine") as boot:
                machine.launch(None, BOOT_DEADLINE_S)
                try:
                    machine.await_console(READY, BOOT_DEADLINE_S)
                    self._hear(machine.console_tail())
                    if state.kind == "kvm":
                        check_known(state.append, machine.console_tail())
                    spec = machine.reach(BOOT_DEADLINE_S)
                    with _connected(spec) as connection:
                        boot.stop()
                        state = probe.look(state, connection, PROBE_DEADLINE_S)
                except Refused:
                    raise
                except (SimError, HostError) as error:
                    raise machine.failed(SimError(str(error))) from error
            if not state.available:
                self._say(f"warning: {state.reason}")
            with self._timed("saving its state"), open(state.directory / STATE, "wb") as saved:
                if state.paused:
                    machine.qmp.execute("stop")
                machine.qmp.save(saved.fileno(), SAVE_DEADLINE_S)
            (state.directory / "console.log").write_text(machine.console_tail())
        finally:
            machine.stop()
        return dataclasses.replace(state, measured={"boot_s": boot.seconds})

    def _hear(self, console: str) -> None:
        """Passes on what does not work there; without a network the build ends."""
        for said in re.findall(rf"^{FAILED}(.*)", console, re.MULTILINE):
            if "network" in said:
                raise SimError(said)
            self._say(f"warning: the host says: {said}")

    def _made_of(self) -> dict[str, Any]:
        wanted = self._wanted
        made_of = {
            "format": IMAGE_FORMAT,
            "kind": wanted.kind,
            "suite": wanted.suite,
            "packages": sorted(f"{package.name}={package.version}" for package in self._packages),
            "qemu": [*self._qemu.command, self._qemu.version],
            "argv": self._image.argv(),
            "image": self._image.fingerprint(),
            "kernel": digest(wanted.kernel),
            "modules": digest_folder(wanted.modules),
            "xen": digest(wanted.xen),
        }
        if wanted.on_restore:
            made_of["on_restore"] = wanted.on_restore
        if wanted.vmm_args:
            made_of["vmm_args"] = wanted.vmm_args
        if wanted.qemu is not None:  # somebody's own builds are all of one version
            made_of["program"] = digest(self._qemu.program)
        return made_of

    def _kernel(self, packages: Packages, scratch: Path) -> Kernel:
        if self._wanted.kernel is not None:
            return Kernel(self._wanted.kernel, self._wanted.modules)
        image = packages.need("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
        return Kernel(image, scratch)

    def _find_qemu(self) -> OuterQemu:
        wanted = self._wanted
        if wanted.outer_suite is None:
            return outer_qemu.find(wanted.qemu)
        with self._timed(f"getting the QEMU of {wanted.outer_suite}"):
            view = PackageView(wanted.outer_suite, home() / ".packages" / wanted.outer_suite)
            warning = view.refresh()
            if warning:
                self._say(f"warning: {warning}")
            return outer_qemu.from_suite(view, home() / ".qemu")

    @contextmanager
    def _timed(self, what: str) -> Iterator[_Clock]:
        self._say(f"{what} ...")
        clock = _Clock()
        yield clock
        self._say(f"{what}: {clock.stop():.1f} s")


class _Clock:
    def __init__(self) -> None:
        self._since = time.monotonic()
        self.seconds = 0.0

    def stop(self) -> float:
        """The seconds until it was first stopped."""
        self.seconds = self.seconds or time.monotonic() - self._since
        return self.seconds


@contextmanager
def _connected(spec: Any) -> Iterator[Connection]:
    connection = Connection(spec)
    try:
        yield connection
    finally:
        connection.close()


def _unchanged(name: str, inputs: str) -> State | None:
    try:
        state = load(name)
        outer_qemu.check_unchanged(state)
    except SimError:
        return None
    return state if state.inputs == inputs and (state.directory / STATE).is_file() else None


def _put_in_place(new: Path, place: Path) -> None:
    """Machines that run from the old folder have its files open and go on."""
    old = new.parent / "old"
    if place.exists():
        os.rename(place, old)
    os.rename(new, place)
