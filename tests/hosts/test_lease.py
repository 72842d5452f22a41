"""Two runs on one host never meet, and what a dead run left is cleaned up. A real sshd, leases on its disk."""

from __future__ import annotations

import os
import shlex
import shutil
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
from harness.hosts.hold import Hold
from harness.hosts.lease import Lease, run_id
from harness.hosts.lease_scripts import ACQUIRE, BEAT, RELEASE
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


def test_runs_that_come_and_go(sshd: Sshd) -> None:
    """The folder is removed and made anew all the time, and nobody finds half of it."""
    with ThreadPoolExecutor(5) as pool:
        hosts = list(pool.map(lambda _: Connection(sshd.spec()), range(5)))
        holding: list[str] = []

        def come_and_go(number: int) -> int:
            taken = 0
            while taken < 4 and time.monotonic() < end:
                lease = Lease(hosts[number], f"gw{number}", f"run{number // 2}")
                try:
                    lease.acquire()
                except HostError as error:
                    assert "is in use by" in str(error)
                    continue
                holding.append(lease.run)
                assert set(holding) == {lease.run}
                taken += 1
                holding.remove(lease.run)
                lease.release()
            return taken

        end = time.monotonic() + 60
        assert list(pool.map(come_and_go, range(5))) == [4] * 5
    for host in hosts:
        host.close()
    assert not list(work(sshd).parent.glob(f"{work(sshd).name}*"))


SHELLS = [shell for shell in ("dash", "bash", "busybox sh") if shutil.which(shell.split()[0])]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_in_the_shells_of_hosts(shell: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"

    def call(script: str, run: str, said: bytes = b"") -> str:
        names = {"w": folder, "run": run, "worker": "main", "me": f"main.{run}", "holder": f"{run}'s"}
        names |= {"boot_file": leases.BOOT_ID}
        text = "\n".join(f"{name}={shlex.quote(str(value))}" for name, value in names.items()) + script
        ran = subprocess.run([*shell.split(), "-c", text], input=said, capture_output=True, timeout=30, check=False)
        assert ran.stderr == b""
        return ran.stdout.decode().partition("\n")[0]

    for name in ("work.gone-999999999", f"work.gone-{os.getpid()}", "work.2026"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert call(ACQUIRE, "a") == "FREE" and call(ACQUIRE, "b") == "HELD" and call(ACQUIRE, "a") == "JOIN"
    beat = folder / "beat.main.a"
    assert call(BEAT, "a", b"\n\n") == "" and call(ACQUIRE, "b") == "TAKEN"
    assert not beat.exists()
    assert call(RELEASE, "a") == "NONE"
    beat = folder / "beat.main.b"
    inode = beat.stat().st_ino
    assert call(BEAT, "b", b"\n") == "" and beat.read_text() == f"{'gone':12}\n"
    assert beat.stat().st_ino == inode, "written over in its place"
    (folder / "lock").symlink_to("999999999")  # of a process that is gone
    assert call(RELEASE, "b") == "LAST"
    left = sorted(os.listdir(tmp_path))
    assert left == ["work.2026", f"work.gone-{os.getpid()}"], "not ours, and one that is being removed"


def test_a_folder_that_another_run_had_and_left_meanwhile_is_made_anew(sshd: Sshd) -> None:
    """As by one that waited for the lock of the folder before, between our mkdir and what we put there."""
    made = 'if e=$(mkdir "$w" 2>&1); then\n'
    assert made in ACQUIRE
    left = '[ -e "$w.once" ] || { : > "$w.once"; rmdir "$w"; }\n'
    names = f"w={shlex.quote(str(work(sshd)))} run=a worker=main me=main.a holder=a boot_file={leases.BOOT_ID}\n"
    script = names + ACQUIRE.replace(made, made + left)

    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=20)

    assert (ran.stdout.partition("\n")[0], ran.stderr) == ("FREE", "")
    assert work(sshd).with_name(f"{work(sshd).name}.once").exists()


def test_a_sign_of_life_is_given(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEPALIVE_S", 0.2)
    lease = take(sshd, "run")
    beat = next(work(sshd).glob("beat.*"))
    beat.write_text("17\n")
    assert wait_for(lambda: beat.read_text().strip() not in ("", "17"), 20)
    assert lease.held
    give(lease)


def test_a_run_that_was_stopped_for_too_long(sshd: Sshd, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEPALIVE_S", 0.2)
    first = make_host("first")
    boot(first)
    connection = first.hold.connection
    assert connection is not None
    connection.on_beat = None  # as if stopped
    second = Lease(Connection(sshd.spec()), "main", "second", holder="second's user@machine")

    def takes_over() -> bool:
        next(work(sshd).glob("beat.*")).write_text("1\n")  # over a beat that was under way, too
        try:
            second.acquire()
        except HostError:
            return False
        return True

    assert wait_for(takes_over, 20)
    lease = first.hold._lease
    assert lease is not None
    connection.on_beat = lease.beat
    assert wait_for(lambda: not lease.held, 20), "its next sign of life is not taken"

    with pytest.raises(HostError, match="in use by second's"):
        first.start()
    give(second)
    boot(first).run(b"x", 20)
    assert any("no longer ours" in line for line in first.hold.story)


def test_cleaning_up_that_fails_is_tried_again(
    make_host: MakeHost, l0: FakeL0, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    (l0.registry / "nsvm-dead-main").write_text("999999999")
    real = l0.stop_script
    monkeypatch.setattr(l0, "stop_script", lambda name: "echo it is stuck >&2")
    host = make_host("next")
    for _ in range(2):
        with pytest.raises(HostError, match="nsvm-dead-main cannot be ended: it is stuck"):
            host.start()
        assert not work(sshd).exists()
    monkeypatch.setattr(l0, "stop_script", real)
    boot(host)
    assert l0.guests() == ["nsvm-next-main"]


def test_an_interrupt_while_the_host_is_taken(make_host: MakeHost, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host("run")

    def interrupt(*_: object) -> None:
        assert work(sshd).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Hold, "_clean_others", interrupt)
    with pytest.raises(KeyboardInterrupt):
        host.start()
    host.close()
    assert not work(sshd).exists()


def test_who_has_hung_up_has_no_lease(sshd: Sshd) -> None:
    lost = take(sshd, "lost")
    (work(sshd) / "rubbish").write_text("x")
    lost.host.close()
    assert wait_for(lambda: next(work(sshd).glob("beat.*")).read_text().strip() == "gone", 20)

    lease = take(sshd, "next")
    assert lease.took_over is not None and lease.took_over.startswith("lost lost's user")
    assert not (work(sshd) / "rubbish").exists()
    give(lease)


@pytest.mark.parametrize("why", ["stale", "boot"])
def test_a_lease_that_means_nothing_any_more(
    sshd: Sshd, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = take(sshd, "old")
    old.host.on_beat = None
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
from harness.machine.base import TargetOptions
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
    assert wait_for(lambda: "gone" in next(work(sshd).glob("beat.*")).read_text(), 20)
    stuck = l0.pid("nsvm-killed-main")
    os.kill(stuck, signal.SIGCONT)

    host = make_host("next")
    boot(host)

    assert l0.guests() == ["nsvm-next-main"]
    assert any("dead run" in line for line in host.hold.story)
    host.close()
    assert not work(sshd).exists() and l0.guests() == []
