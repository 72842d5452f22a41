"""Builds the executor once, and keeps one emulator of each kind running for the tests that leave it in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import machine as commands
from harness.link.link import LinkError
from harness.machine.base import Target, TargetOptions
from harness.targets import names
from tests.executor.machines import BUILD, Blobs, Machine, make_target

MakeTarget = Callable[..., Target]


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    commands.build_executor()


def options(workdir: Path, **changes: object) -> TargetOptions:
    return replace(TargetOptions(workdir, BUILD / "executor.elf", BUILD / "disk.img"), **changes)  # type: ignore[arg-type]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[MakeTarget]:
    """Makes targets of a test's own: target("qemu-tcg", cpus=2)."""
    made: list[Target] = []

    def new(name: str, **changes: object) -> Target:
        made.append(make_target(name, options(tmp_path / f"{name}{len(made)}", **changes)))
        assert made[-1].missing() == [], "the emulator tests need both emulators"
        return made[-1]

    yield new
    for one in made:
        one.stop()


class Pool:
    """Running machines by name and CPU count; one that no longer answers is booted again for the next test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: dict[tuple[str, int], Machine] = {}

    def get(self, name: str, cpus: int = 1) -> Machine:
        machine = self.machines.get((name, cpus))
        if machine is not None:
            try:
                machine.link.hello(5.0)
            except LinkError:
                machine.target.stop()
                machine = None
        if machine is None:
            new = make_target(name, options(self.folder / f"{name}-{cpus}", cpus=cpus))
            assert new.missing() == [], "the emulator tests need both emulators"
            machine = self.machines[name, cpus] = Machine.boot(new)
        return machine


@pytest.fixture(scope="package")  # an executor that waits keeps a core busy: not through all the tests that follow
def pool(tmp_path_factory: pytest.TempPathFactory, built: None) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("machines"))
    yield pool
    for machine in pool.machines.values():
        machine.target.stop()


@pytest.fixture(params=names())
def machine(request: pytest.FixtureRequest, pool: Pool) -> Machine:
    """A running machine, one emulator after the other."""
    return pool.get(request.param)


@pytest.fixture
def qemu(pool: Pool) -> Machine:
    return pool.get("qemu-tcg")


@pytest.fixture
def two_cpus(pool: Pool) -> Machine:
    return pool.get("qemu-tcg", 2)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Blobs:
    return Blobs(tmp_path_factory.mktemp("assembled"))
