"""Building the reference machine: the source from Debian, our hooks, the compiler, and the result kept."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.reference import compile, store
from harness.reference.error import ReferenceMachineError
from harness.reference.recipe import Recipe
from harness.reference.store import Built
from harness.sim.error import SimError
from harness.sim.lock import locked
from harness.sim.packages import Choice, unpack
from harness.sim.sources import Source, SourceView

NEEDED_BYTES = 1 << 30
"""What a build takes while it goes on: 420 MB of source, 110 MB of objects, 50 MB of downloads, and room."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tools:
    """What a build runs with. `python` has meson; `log` is the folder for the compiler's output."""

    python: Path
    log: Path
    say: Say
    progress: compile.Progress
    jobs: int


def build(recipe: Recipe, tools: Tools, *, force: bool = False) -> tuple[Built, bool]:
    """Builds the machine, or finds that it is there already: the machine, and whether it was built now."""
    if not force and (there := store.find(recipe.key)):
        return there, False
    started = time.monotonic()
    home = store.home()
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / ".lock", lambda: tools.say("somebody else builds the reference machine: waiting for that")):
        if not force and (there := store.find(recipe.key)):
            return there, False
        for leftover in home.glob(".build-*"):  # of a build that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        _room(home)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=home) as scratch:
            directory = Path(scratch) / "tree"
            source = make(directory, recipe, tools)
            draft = Path(scratch) / recipe.key
            program = draft / store.PROGRAM
            program.parent.mkdir(parents=True)
            shutil.copy2(directory / "build" / compile.TARGET, program)
            shutil.copytree(directory / "build" / compile.FIRMWARE, draft / "share/qemu", ignore=_only(recipe))
            Built(
                directory=draft,
                source=f"{source.name} {source.version}",
                built=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                bits=tuple(recipe.bits),
                made_of={
                    "source": dict(zip([path.name for path in source.files], source.digests, strict=True)),
                    "features": [feature.name for feature in recipe.features],
                },
                measured={"build_s": round(time.monotonic() - started, 1)},
            ).save()
            _put_in_place(draft, home / recipe.key, Path(scratch))
    there = store.find(recipe.key)
    assert there is not None
    return there, True


def make(directory: Path, recipe: Recipe, tools: Tools) -> Source:
    """Makes, or brings up to date, a tree in `directory`: its program is `directory`/build/qemu-system-x86_64."""
    directory.mkdir(parents=True, exist_ok=True)
    view = SourceView(recipe.suite, store.home() / ".packages" / recipe.suite)
    kept = directory / "source.version"
    source = None
    if not (kept.is_file() and (directory / "src" / compile.UNPACKED).is_file()):
        with timed(f"fetching QEMU's source from Debian {recipe.suite}", tools.say):
            source = fetch(view, recipe, tools.say)
        with timed("unpacking it", tools.say):
            compile.unpack(directory, source)
        kept.write_text(source.version)
    version = kept.read_text()
    if written := compile.hook(directory, recipe):
        tools.say(f"QEMU {version}: {len(recipe.features)} features, {len(written)} files changed")
    compile.configure(directory, recipe, tools.python, version, tools.log / "reference-configure.log")
    with timed("compiling", tools.say):
        compile.build(directory, tools.log / "reference-compile.log", tools.jobs, tools.progress)
    _firmware(view, recipe, directory / "build" / compile.FIRMWARE)
    return source or Source(recipe.package, version, (), ())


def fetch(view: SourceView, recipe: Recipe, say: Say) -> Source:
    """The newest source package in the recipe's range that the mirror really has."""
    if warning := view.refresh():
        say(f"warning: {warning}")
    sources = view.sources(recipe.package)
    wanted = [source for source in sources if re.fullmatch(recipe.versions, source.version)]
    if not wanted:
        versions = ", ".join(source.version for source in sources)
        raise ReferenceMachineError(
            f"Debian {recipe.suite} has {recipe.package} {versions}; "
            f"reference_machine/qemu.toml wants {recipe.versions}"
        )
    for source in wanted:
        try:
            view.fetch_source(source)
            return source
        except SimError as error:
            if source is wanted[-1]:
                raise
            say(f"warning: {error}; trying the version before it")
    raise AssertionError


def _firmware(view: SourceView, recipe: Recipe, place: Path) -> None:
    """Brings the firmware that is not there yet."""
    missing = [item for item in recipe.firmware if any(not (place / name).is_file() for name in item.files)]
    if not missing:
        return
    packages = view.choose([Choice((item.package,), ()) for item in missing])
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for archive in view.fetch(packages):
            unpack(archive, Path(scratch))
        for item in missing:
            for name in item.files:
                found = Path(scratch) / item.folder / name
                if not found.is_file():
                    raise ReferenceMachineError(f"package {item.package} has no {item.folder}/{name}")
                shutil.copy(found, place / name)


def _only(recipe: Recipe) -> Callable[[str, list[str]], list[str]]:
    wanted = {name for item in recipe.firmware for name in item.files}
    return lambda folder, names: [name for name in names if name not in wanted]


def _room(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < NEEDED_BYTES:
        raise ReferenceMachineError(
            f"{home}: {free >> 20} MiB free, {NEEDED_BYTES >> 20} MiB needed (NSVM_REFERENCE names another place)"
        )


def _put_in_place(draft: Path, place: Path, scratch: Path) -> None:
    """Machines that run from the old folder have its files open and go on."""
    if place.exists():
        os.rename(place, scratch / "old")
    os.rename(draft, place)


@contextmanager
def timed(what: str, say: Say) -> Iterator[None]:
    """Says what begins, and how long it took."""
    say(f"{what} ...")
    started = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - started:.1f} s")
