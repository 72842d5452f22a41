"""What the tests of hosts share: a real sshd, a fake L0 behind it, and a home of nobody's."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.hosts.hold import Hold
from harness.hosts.spec import HostSpec
from harness.link.link import Link
from harness.machine.base import TargetOptions
from harness.targets.ssh_host import SshHost
from tests.hosts.fake_l0 import FakeL0
from tests.hosts.sshd import Sshd


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the present user's own settings, keys and agents matters."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    for name in ("SSH_AUTH_SOCK", "NSVM_SSH_PASSWORD", "NSVM_LAB", "NSVM_RUN_ID", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """One for each test, as tests cut it, freeze it and change its keys."""
    server = Sshd(tmp_path / "sshd")
    yield server
    server.stop()


@pytest.fixture
def l0(tmp_path: Path) -> FakeL0:
    return FakeL0(tmp_path / "guests")


MakeHost = Callable[..., SshHost]


@pytest.fixture
def make_host(sshd: Sshd, l0: FakeL0, tmp_path: Path) -> Iterator[MakeHost]:
    """Makes targets on the sshd; ends them, and then no thread of theirs may be left."""
    before = set(threading.enumerate())
    made: list[SshHost] = []

    def new(run: str = "run1", worker: str = "main", spec: HostSpec | None = None, **changes: object) -> SshHost:
        options = TargetOptions(tmp_path / "w", tmp_path / "e", tmp_path / "i", **changes)  # type: ignore[arg-type]
        spec = spec or sshd.spec()
        host = SshHost(spec, options, l0=l0, hold=Hold(spec, worker, run))
        made.append(host)
        return host

    yield new
    for host in made:
        host.close()
    assert wait_for(lambda: set(threading.enumerate()) <= before, 20), threading.enumerate()


def wait_for(happens: Callable[[], object], deadline_s: float) -> bool:
    """Whether it does, by then."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.02)
    return bool(happens())


def boot(host: SshHost) -> Link:
    """Starts it and says hello."""
    link = Link(host.start(), round_trip_s=host.capabilities().round_trip_s)
    link.hello(host.capabilities().boot_deadline_s)
    return link


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skips the test where none may be mounted, as by a plain user or in a container."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "nsvm-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, timeout=20)
    if mounted.returncode:
        pytest.skip(f"a full disk needs a mount, which is refused here: {mounted.stderr.partition(chr(10))[0]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)
