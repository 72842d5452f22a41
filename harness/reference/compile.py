"""A tree with QEMU's source and its build: unpacked, patched, hooked, configured, compiled.

A tree is a folder with `src` and `build`. Each step is done once and again only if what it depends on has changed, so
that a tree that is kept is rebuilt within seconds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from harness.reference import tree
from harness.reference.error import ReferenceMachineError
from harness.reference.recipe import Recipe
from harness.sim.sources import Source

TARGET = "qemu-system-x86_64"
DEVICES = "configs/devices/x86_64-softmmu/nsvm.mak"
UNPACKED = ".nsvm-unpacked"
CONFIGURED = ".nsvm-configured"
FIRMWARE = "qemu-bundle/usr/local/share/qemu"
"""Where a QEMU that runs from its build folder looks for firmware."""
PATCH_DEADLINE_S = 60
CONFIGURE_DEADLINE_S = 300
COMPILE_DEADLINE_S = 3600

Progress = Callable[[int, int], None]


def unpack(directory: Path, source: Source) -> None:
    """QEMU's source with Debian's patches, in `directory`/src."""
    place = directory / "src"
    if (place / UNPACKED).is_file() and (place / UNPACKED).read_text() == source.version:
        return
    shutil.rmtree(place, ignore_errors=True)
    scratch = directory / "unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    _extract(source.file(".orig.tar.xz"), scratch)
    top = [path for path in scratch.iterdir() if path.is_dir()]
    if len(top) != 1:
        raise ReferenceMachineError(f"{source.file('.orig.tar.xz').name} has {len(top)} folders at its top, not one")
    _extract(source.file(".debian.tar.xz"), top[0])
    _patch(top[0])
    (top[0] / UNPACKED).write_text(source.version)
    top[0].rename(place)
    scratch.rmdir()


def hook(directory: Path, recipe: Recipe) -> list[str]:
    """Our edits and files; the names of what was written. Raises AnchorError."""
    place = directory / "src"
    devices = "".join(f"CONFIG_{device}=y\n" for device in recipe.devices)
    if not (place / DEVICES).is_file() or (place / DEVICES).read_text() != devices:
        (place / DEVICES).write_text(devices)
    return tree.apply(place, recipe.features, recipe.folder / "src", recipe.faults)


def configure(directory: Path, recipe: Recipe, python: Path, version: str, log: Path) -> None:
    """QEMU's configure, with a Python that has a meson that is new enough."""
    build = directory / "build"
    options = [*recipe.options, f"--with-pkgversion=nsvm reference machine, synthetic, Debian {version}"]
    wanted = hashlib.sha256("\0".join([*options, *recipe.devices]).encode()).hexdigest()
    done = build / CONFIGURED
    if done.is_file() and done.read_text() == wanted:
        return
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir()
    command = ["../src/configure", *options, f"--python={python}"]
    ran = _run(command, build, log, CONFIGURE_DEADLINE_S)
    if ran != 0:
        raise ReferenceMachineError(f"QEMU cannot be configured: {_complaint(log)} (all of it: {log})")
    done.write_text(wanted)


def build(directory: Path, log: Path, jobs: int, progress: Progress = lambda done, total: None) -> Path:
    """Compiles; `progress` gets the number of steps done and of all steps. Returns the program."""
    command = ["ninja", f"-j{jobs}", TARGET]
    deadline = time.monotonic() + COMPILE_DEADLINE_S
    with open(log, "w") as output:
        process = _start(command, directory / "build", subprocess.PIPE)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                output.write(line)
                if found := re.match(r"\[(\d+)/(\d+)\]", line):
                    progress(int(found[1]), int(found[2]))
                if time.monotonic() > deadline:
                    raise ReferenceMachineError(f"QEMU was not compiled after {COMPILE_DEADLINE_S} s (see {log})")
            status = process.wait(60)
        finally:
            process.kill()
            process.wait()
    if status != 0:
        raise ReferenceMachineError(f"QEMU does not compile: {_complaint(log)} (all of it: {log})")
    return directory / "build" / TARGET


def _extract(archive: Path, into: Path) -> None:
    try:
        with tarfile.open(archive, "r:xz") as opened:
            opened.extractall(into, filter="tar" if hasattr(tarfile, "tar_filter") else None)
    except (OSError, tarfile.TarError) as error:
        raise ReferenceMachineError(f"{archive} cannot be unpacked ({error}); remove it if it is damaged") from None


def _patch(place: Path) -> None:
    """Debian's patches, in their order."""
    folder = place / "debian" / "patches"
    try:
        series = (folder / "series").read_text()
    except OSError:
        return
    for name in (line.split()[0] for line in series.splitlines() if line.strip() and not line.startswith("#")):
        command = ["patch", "-p1", "-s", "--no-backup-if-mismatch", "-i", str(folder / name)]
        try:
            ran = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=PATCH_DEADLINE_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReferenceMachineError(f"cannot run patch: {error}") from None
        if ran.returncode:
            complaint = (ran.stdout + ran.stderr).strip().splitlines()
            raise ReferenceMachineError(f"Debian's patch {name} does not apply: {complaint[0] if complaint else ''}")


def _run(command: Sequence[str], place: Path, log: Path, deadline_s: float) -> int:
    with open(log, "w") as output:
        process = _start(command, place, output)
        try:
            return process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise ReferenceMachineError(f"{command[0]} was not done after {deadline_s:.0f} s (see {log})") from None
        finally:
            process.kill()
            process.wait()


def _start(command: Sequence[str], place: Path, output: IO[str] | int) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"LC_ALL": "C.UTF-8", "NINJA_STATUS": "[%f/%t] "}
    try:
        return subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise ReferenceMachineError(f"cannot run {command[0]}: {error.strerror}") from None


def _complaint(log: Path) -> str:
    """The line of a compiler's output that says most."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE) and "warnings being" not in line]
    return (errors or lines or ["it says nothing"])[0 if errors else -1][:300]
