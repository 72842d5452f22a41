"""Two runs on one host never meet, and what a dead run left is cleaned up. A real sshd, leases on its disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.hosts import connection as connections
from harness.hosts import lease as leases
from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.lease import Lease, run_id
from tests.hosts.conftest import MakeHost, boot, small_disk, wait_for
from tests.hosts.fake_l0 import FakeL0
from tests.hosts.sshd import Sshd


def take(sshd: Sshd, run: str, worker: str = "main") -> Lease:
    lease = Lease(Connection(sshd.spec()), worker, run, holder=f"{run}'s user@machine")
    lease.acquire()
    return lease


def give(lease: Lease) -> None:
    lease.release()
    lease.host.close()


def work(sshd: Sshd) -> Path:
    return Path(sshd.spec().workdir)


def test_one_run_at_a_time_and_nothing_left(sshd: Sshd) -> None:
    first = take(sshd, "first")
    with pytest.raises(
        HostError, match=r"host lab is in use by first's user@machine, run first, since 20.*, last sign"
    ):
        take(sshd, "second")
    give(first)

    assert not work(sshd).exists()
    give(take(sshd, "second"))
    assert not work(sshd).exists()


def test_the_workers_of_a_run_share_it(sshd: Sshd) -> None:
    one, two = take(sshd, "run", "gw0"), take(sshd, "run", "gw1")
    give(one)
    with pytest.raises(HostError, match="in use"):
        take(sshd, "other")
    give(two)
    assert not work(sshd).exists()


def test_many_at_once(sshd: Sshd) -> None:
    def attempt(number: int) -> Lease | None:
        try:
            return take(sshd, f"run{number // 2}", f"gw{number}")
        except HostError as error:
            assert "is in use by" in str(error)
            return None

    with ThreadPoolExecutor(8) as pool:
        held = [lease for lease in pool.map(attempt, range(8)) if lease is not None]

    assert len({lease.run for lease in held}) == 1 and len(held) == 2
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(give, held))
    assert not work(sshd).exists()


def test_a_sign_of_life_is_given(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEPALIVE_S", 0.2)
    lease = take(sshd, "run")
    beat = next(work(sshd).glob("beat.*"))
    beat.write_text("17\n")
    assert wait_for(lambda: beat.read_text().strip() not in ("", "17"), 5)
    give(lease)


def test_who_has_hung_up_has_no_lease(sshd: Sshd) -> None:
    lost = take(sshd, "lost")
    (work(sshd) / "rubbish").write_text("x")
    lost.host.close()
    assert wait_for(lambda: next(work(sshd).glob("beat.*")).read_text() == "gone\n", 5)

    lease = take(sshd, "next")
    assert lease.took_over is not None and lease.took_over.startswith("lost lost's user")
    assert not (work(sshd) / "rubbish").exists()
    give(lease)


@pytest.mark.parametrize("why", ["stale", "boot"])
def test_a_lease_that_means_nothing_any_more(
    sshd: Sshd, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = take(sshd, "old")
    if why == "boot":
        (tmp_path / "boot_id").write_text("another boot\n")
        monkeypatch.setattr(leases, "BOOT_ID", str(tmp_path / "boot_id"))
    else:
        next(work(sshd).glob("beat.*")).write_text(f"{int(time.clock_gettime(time.CLOCK_BOOTTIME)) - 61}\n")

    lease = take(sshd, "new")
    assert lease.took_over is not None
    old.release()  # comes too late, and must not take the new one's away
    assert work(sshd).exists()
    old.host.close()
    give(lease)


def test_a_folder_that_is_not_ours(sshd: Sshd) -> None:
    work(sshd).mkdir()
    (work(sshd) / "thesis.tex").write_text("x")
    with pytest.raises(HostError, match="is not nsvm's own") as caught:
        take(sshd, "run")
    assert "\n" not in str(caught.value) and (work(sshd) / "thesis.tex").exists()


def test_a_folder_that_cannot_be_made(sshd: Sshd) -> None:
    for workdir in ("/proc/nsvm/x", f"{sshd.host_key}/x"):
        lease = Lease(Connection(sshd.spec(workdir=workdir)), "main", "run")
        with pytest.raises(HostError, match=r"set workdir") as caught:
            lease.acquire()
        assert "\n" not in str(caught.value)
        lease.host.close()


def test_a_full_disk(sshd: Sshd, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as folder:
        lease = Lease(Connection(sshd.spec(workdir=f"{folder}/work")), "main", "run")
        (folder / "ballast").write_bytes(b"x" * 60 * 1024)
        with pytest.raises(OSError):
            (folder / "more").write_bytes(b"x" * 60 * 1024)
        with pytest.raises(HostError, match=r"(?i)no space left on device") as caught:
            lease.acquire()
        assert "\n" not in str(caught.value)
        (folder / "ballast").unlink()
        (folder / "more").unlink()
        lease.acquire()
        give(lease)
        assert os.listdir(folder) == []


def test_mounted_noexec(sshd: Sshd, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as folder:
        subprocess.run(["mount", "-o", "remount,noexec", str(folder)], check=True)
        lease = Lease(Connection(sshd.spec(workdir=f"{folder}/work")), "main", "run")
        with pytest.raises(HostError, match="noexec"):
            lease.acquire()
        lease.host.close()
        assert os.listdir(folder) == []


def test_run_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    assert run_id() == run_id() and run_id()
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "a" * 32)
    assert run_id() == "a" * 24
    monkeypatch.setenv("NSVM_RUN_ID", "x/../$(y)")
    assert run_id() == "x..y"


KILLED = """
import sys, time
from pathlib import Path
from harness.hosts.hold import Hold
from harness.hosts.spec import HostSpec
from harness.targets.base import TargetOptions
from harness.targets.ssh_host import SshHost
from tests.hosts.conftest import boot
from tests.hosts.fake_l0 import FakeL0
port, key, known, workdir, registry = sys.argv[1:]
spec = HostSpec("lab", address="127.0.0.1", port=int(port), identity_files=(Path(key),), known_hosts=(Path(known),),
                workdir=workdir, use_agent=False, use_ssh_config=False)
path = Path(registry)
host = SshHost(spec, TargetOptions(path, path, path), l0=FakeL0(path), hold=Hold(spec, "main", "killed"))
boot(host)
print("up", flush=True)
time.sleep(60)
"""


def test_a_killed_run_is_cleaned_up_after(sshd: Sshd, l0: FakeL0, make_host: MakeHost) -> None:
    spec = sshd.spec()
    names = [str(sshd.port), str(sshd.user_key), str(sshd.known_hosts), spec.workdir, str(l0.registry)]
    with subprocess.Popen([sys.executable, "-c", KILLED, *names], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stdout.readline() == b"up\n"
        assert l0.guests() == ["nsvm-killed-main"]
        with pytest.raises(HostError, match=r"in use by .*run killed"):
            make_host("next").start()
        os.kill(l0.pid("nsvm-killed-main"), signal.SIGSTOP)  # so that it cannot end by itself
        run.kill()
    assert wait_for(lambda: "gone" in next(work(sshd).glob("beat.*")).read_text(), 10)
    stuck = l0.pid("nsvm-killed-main")
    os.kill(stuck, signal.SIGCONT)

    host = make_host("next")
    boot(host)

    assert l0.guests() == ["nsvm-next-main"]
    assert any("dead run" in line for line in host.hold.story)
    host.close()
    assert not work(sshd).exists() and l0.guests() == []
