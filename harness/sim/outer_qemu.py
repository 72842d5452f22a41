"""The QEMU that emulates the outer machine: this machine's, one the user names, or a later suite's, unpacked."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.sim.error import SimError
from harness.sim.lock import locked
from harness.sim.packages import PackageView, unpack
from harness.sim.state import State

PROGRAM = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
DONE = "unpacked"
LIBRARY_PATHS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LOADER = "ld-linux-x86-64.so.2"


@dataclass(frozen=True)
class OuterQemu:
    """How it is called: the program, or a loader with the program as an argument."""

    command: tuple[str, ...]
    program: Path
    version: str

    def stamp(self) -> tuple[int, int]:
        """Size and time of the program."""
        return _stamp(self.program)


def find(path: str | None) -> OuterQemu:
    """This machine's QEMU, or the one at `path`."""
    found = shutil.which(path or PROGRAM)
    if found is None:
        how = "no such program, or it is not executable" if path else f"apt-get install {PACKAGE}"
        raise SimError(f"{path or PROGRAM}: {how}")
    program = Path(found).absolute()
    return OuterQemu((str(program),), program, version((str(program),)))


def from_suite(view: PackageView, folder: Path) -> OuterQemu:
    """A suite's QEMU, unpacked below `folder` and run by its own loader, so that it finds its own libraries."""
    packages = view.resolve([PACKAGE])
    wanted = [package for package in packages if package.name.startswith(("qemu-system", "lib", "seabios", "zlib"))]
    chosen = next(package for package in packages if package.name == PACKAGE)
    tree = folder / re.sub(r"[^A-Za-z0-9.+~-]", "_", f"{PACKAGE}_{chosen.version}")
    with locked(folder / ".lock"):
        if not (tree / DONE).is_file():
            shutil.rmtree(tree, ignore_errors=True)
            for archive in view.fetch(wanted):
                unpack(archive, tree)
            # Not lib64's: that may be a link to /lib, where this machine's loader is.
            loader = next((tree / path / LOADER for path in LIBRARY_PATHS if (tree / path / LOADER).exists()), None)
            if loader is None:
                raise SimError(f"{view.suite}: its libc6 has no loader")
            # QEMU looks for its modules and firmware next to the running program, which is the loader.
            shutil.copy(loader, tree / "usr/bin/ld.so")
            (tree / DONE).write_text("")
    program = tree / "usr/bin" / PROGRAM
    libraries = ":".join(str((tree / path).absolute()) for path in LIBRARY_PATHS)
    command = (str((tree / "usr/bin/ld.so").absolute()), "--library-path", libraries, str(program.absolute()))
    return OuterQemu(command, program, version(command))


def check_unchanged(state: State) -> None:
    """Raises SimError if the QEMU that saved a state is not the one that would restore it."""
    command = state.argv[: state.argv.index("-accel")]
    program = Path(command[-1])
    if not program.is_file():
        raise SimError(f"sim:{state.name} was built with {program}, which is gone: run {state.again}")
    if _stamp(program) != state.qemu_stamp and (now := version(command)) != state.qemu_version:
        raise SimError(
            f"sim:{state.name} was built with {state.qemu_version}, {program} is now {now}: run {state.again}"
        )


def version(command: tuple[str, ...]) -> str:
    """As in "QEMU 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"."""
    try:
        ran = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SimError(f"{command[-1]}: {error}") from None
    found = re.search(r"QEMU emulator version (.+)", ran.stdout)
    if found is None:
        lines = (ran.stderr or ran.stdout).strip().splitlines()
        raise SimError(f"{command[-1]} is no QEMU that runs here: {lines[-1][:200] if lines else 'it says nothing'}")
    return f"QEMU {found[1].strip()}"


def _stamp(program: Path) -> tuple[int, int]:
    found = program.stat()
    return found.st_size, found.st_mtime_ns
