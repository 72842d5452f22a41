"""Connections to a real sshd on loopback: what goes through, what is refused, and what is lost."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from harness.hosts import connection as connections
from harness.hosts import keys
from harness.hosts.connection import Connection, HostError
from harness.hosts.console import ChannelConsole
from tests.hosts.conftest import small_disk, wait_for
from tests.hosts.proxy import Proxy
from tests.hosts.sshd import Sshd, command, descendants, free_port


@pytest.fixture
def host(sshd: Sshd) -> Iterator[Connection]:
    with Connection(sshd.spec()) as made:
        yield made


def fails(spec: object, says: str) -> HostError:
    with pytest.raises(HostError) as caught:
        Connection(spec)  # type: ignore[arg-type]
    assert says in str(caught.value) and "\n" not in str(caught.value)
    return caught.value


def test_commands(host: Connection) -> None:
    ran = host.run("echo out; echo 'it''s' >&2; cat; exit 3", input=b"in\0put")

    assert (ran.status, ran.out, ran.err) == (3, b"out\nin\0put", b"its\n")
    assert host.run("kill -9 $$").status == -1
    assert host.run("false").status == 1 and host.run("echo '\"$HOME\"' \\\n x").text == '"$HOME" x'


def test_output_is_bounded_and_a_full_stderr_stops_nobody(host: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "OUTPUT_MAX", 100_000)

    ran = host.run("head -c 9000000 /dev/zero >&2; head -c 9000000 /dev/zero; echo done >&2")

    assert (ran.status, len(ran.out), len(ran.err)) == (0, 100_000, 100_000)


def test_a_command_has_a_deadline(host: Connection) -> None:
    began = time.monotonic()
    with pytest.raises(HostError, match=r"a command \(echo ...\) did not end within 3 s") as caught:
        host.run("echo before >&2; sleep 30  # 'tis long", deadline_s=3)
    assert caught.value.log == "before\n"
    assert time.monotonic() - began < 15 and host.alive()
    assert host.run("cat > /dev/null; echo well", input=b"x" * 5_000_000).text == "well"
    assert host.run("echo early", input=b"x" * 5_000_000).text == "early"


def test_commands_do_not_meet(host: Connection, tmp_path: Path) -> None:
    """Where another command ends, some servers close a channel whose command has not begun."""
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(host.run, [f"cd {tmp_path} && mkdir one && sleep 0.1 && rmdir one"] * 8))

    assert [ran.status for ran in ended] == [0] * 8, [ran.complaint for ran in ended]


def test_a_command_waits_for_the_one_before_but_not_for_ever(host: Connection, tmp_path: Path) -> None:
    began, end = tmp_path / "began", tmp_path / "end"
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(host.run, f"touch {began}; until [ -e {end} ]; do sleep 0.05; done; echo well")
        assert wait_for(began.exists, 20)
        with pytest.raises(HostError, match="another command there has not ended within 0 s") as caught:
            host.run("true", deadline_s=0.2)
        end.touch()
        assert long.result().text == "well"
    assert caught.value.passing and host.run("echo again").text == "again"


def test_upload(host: Connection, tmp_path: Path) -> None:
    path, data = tmp_path / "a file's name", os.urandom(300_000)

    assert host.upload(data, str(path), 0o700)
    assert path.read_bytes() == data and path.stat().st_mode & 0o777 == 0o700
    assert not host.upload(data, str(path), 0o700), "it was there already"
    assert host.upload(b"", str(path)) and path.read_bytes() == b""
    assert sorted(os.listdir(tmp_path)) == [path.name, "sshd"], "no file of another name is left"


def test_upload_to_a_full_disk(host: Connection, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as folder:
        with pytest.raises(HostError, match="cannot be written there: ") as caught:
            host.upload(b"x" * 300_000, f"{folder}/file")
        assert "\n" not in str(caught.value) and "No space left on device" in str(caught.value)
        assert os.listdir(folder) == [], "half a file is no file"
        assert host.upload(b"x" * 1000, f"{folder}/file"), "and it goes on"


def test_a_small_answer_costs_little_more_than_the_ping(host: Connection) -> None:
    channel = host.open("exec dd bs=300 iflag=fullblock 2>/dev/null")
    took = []
    for _ in range(100):
        began = time.perf_counter()
        channel.sendall(b"x" * 100)
        channel.sendall(b"x" * 200)  # which Nagle would keep until the first is acknowledged
        came = 0
        while came < 300:
            came += len(channel.recv(65536))
        took.append(time.perf_counter() - began)

    decile = statistics.quantiles(took, n=10)[0]  # and no median: the machine may be busy
    assert decile < 0.02, f"{decile * 1e3:.2f} ms"  # 0.7 ms; Nagle costs 40


def test_no_thread_outlives_it(sshd: Sshd) -> None:
    before = set(threading.enumerate())

    with Connection(sshd.spec()) as host:
        host.run("true")

    assert wait_for(lambda: set(threading.enumerate()) <= before, 20), threading.enumerate()
    with pytest.raises(HostError, match="it was closed"):
        host.run("true")


def test_wrong_key(sshd: Sshd) -> None:
    error = fails(sshd.spec(identity_files=(sshd.make_key("other"),)), "refuses every key that was offered")
    assert not error.passing and "other" in str(error) and "NSVM_SSH_PASSWORD" in str(error)


def test_keys_that_are_none(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("this is no key")
    fails(sshd.spec(identity_files=(tmp_path / "bad",)), "bad is no usable key")
    fails(sshd.spec(identity_files=(tmp_path / "gone",)), "gone is not there")
    fails(sshd.spec(identity_files=()), "has been offered no key")


def test_changed_host_key(sshd: Sshd) -> None:
    sshd.stop()
    sshd.make_key("host")
    sshd.start()

    error = fails(sshd.spec(), "has changed")
    assert "ssh-keygen -f" in str(error) and not error.passing


def test_unknown_host_key(sshd: Sshd) -> None:
    sshd.known_hosts.unlink()

    error = fails(sshd.spec(), "is not known (ssh-ed25519 SHA256:")
    assert f"ssh -p {sshd.port} " in str(error) and "ssh-keyscan" in str(error)


@pytest.fixture
def another_key(sshd: Sshd) -> str:
    """A key of the same kind that no host has."""
    return sshd.make_key("another").with_suffix(".pub").read_text()


@pytest.mark.parametrize("how", ["hashed", "beside others", "by a pattern"])
def test_a_known_host_key(sshd: Sshd, another_key: str, how: str) -> None:
    ours = sshd.known_hosts.read_text()
    name = ours.split()[0]
    match how:
        case "hashed":
            subprocess.run(["ssh-keygen", "-q", "-H", "-f", sshd.known_hosts], check=True, timeout=20)
            assert name not in sshd.known_hosts.read_text()
        case "beside others":
            odd = (
                f"@cert-authority * {another_key}{name} ssh-odd AAAA\nshort\n{name} ssh-ed25519 %%%\n|1|x|y ssh-rsa A\n"
            )
            sshd.known_hosts.write_text(f"# mine\n\n{odd}{name} {another_key}{ours}")
        case "by a pattern":
            sshd.known_hosts.write_text(f"other,[127.0.*]:{sshd.port} {ours.partition(' ')[2]}")
    Connection(sshd.spec()).close()


@pytest.mark.parametrize("how", ["revoked", "for all but it"])
def test_a_host_key_that_is_not_to_be_used(sshd: Sshd, how: str) -> None:
    ours = sshd.known_hosts.read_text()
    key = ours.partition(" ")[2]
    if how == "revoked":
        sshd.known_hosts.write_text(f"{ours}@revoked * {key}")
    else:
        sshd.known_hosts.write_text(f"*,![127.0.0.1]:{sshd.port} {key}")
    fails(sshd.spec(), "is revoked (ssh-ed25519 SHA256:" if how == "revoked" else "is not known")


def test_known_hosts_that_cannot_be_read(sshd: Sshd, tmp_path: Path) -> None:
    fails(sshd.spec(known_hosts=(tmp_path,)), "cannot be read: Is a directory")


@pytest.fixture
def agent(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real ssh-agent that has the key that the host takes, and one that it does not."""
    folder = Path(tempfile.mkdtemp(prefix="nsvm-test-"))  # a socket's path must be short
    monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "agent"))
    with subprocess.Popen(["ssh-agent", "-D", "-a", folder / "agent"], stdout=subprocess.DEVNULL) as process:
        try:
            assert wait_for((folder / "agent").exists, 20)
            keys = [sshd.make_key("other"), sshd.user_key]
            subprocess.run(["ssh-add", "-q", *keys], check=True, timeout=20)
            yield folder
        finally:
            process.terminate()
            process.wait(10)
            shutil.rmtree(folder)


def test_an_agent_s_keys(sshd: Sshd, agent: Path, home: Path) -> None:
    Connection(sshd.spec(identity_files=(), use_agent=True)).close()
    fails(sshd.spec(identity_files=()), "has been offered no key")
    sshd.stop()
    sshd.start("MaxAuthTries 1")
    error = fails(
        sshd.spec(identity_files=(), use_agent=True), "closed the connection after it was offered agent's SHA"
    )
    assert error.passing
    # With IdentitiesOnly only the one whose public half is named is offered.
    (home / ".ssh").mkdir()
    locked = home / ".ssh/lab"
    locked.write_text("locked away")
    locked.with_suffix(".pub").write_text(sshd.user_key.with_suffix(".pub").read_text())
    (home / ".ssh/config").write_text(f"Host *\n IdentitiesOnly yes\n IdentityFile {locked}\n")
    Connection(sshd.spec(identity_files=(), use_agent=True, use_ssh_config=True)).close()


def test_an_agent_that_does_not_answer(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nsvm-test-"))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "agent"))
    try:
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(str(folder / "agent"))
            mute.listen()
            given: list[float] = []
            ask = keys._Agent.ask
            monkeypatch.setattr(keys._Agent, "ask", lambda agent, s: [given.append(s), ask(agent, 0.3)])
            fails(sshd.spec(identity_files=(), use_agent=True, connect_deadline_s=20.0), "the agent cannot be used")
            assert 0 < given[0] <= 20, "what is left of the deadline"
    finally:
        shutil.rmtree(folder)


def test_a_key_with_a_passphrase(sshd: Sshd) -> None:
    command = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "a phrase", "-f", str(sshd.user_key)]
    subprocess.run(command, check=True, timeout=20)
    fails(sshd.spec(), f"has a passphrase: ssh-add {sshd.user_key}")


def test_nobody_there(sshd: Sshd) -> None:
    assert fails(sshd.spec(port=free_port()), "refuses the connection").passing
    fails(sshd.spec(address="no-such-host.invalid"), "is not known")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        fails(sshd.spec(port=mute.getsockname()[1], connect_deadline_s=0.5), "does not shake hands within")
        assert time.monotonic() - began < 20


def test_no_ssh_server(sshd: Sshd) -> None:
    with Proxy(sshd.port) as proxy:
        proxy.say_first = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        proxy.cut_after(0)
        fails(sshd.spec(port=proxy.port, connect_deadline_s=20), "no SSH connection")


def test_a_password_is_nowhere_to_be_read(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "correct-horse-battery"
    monkeypatch.setenv("NSVM_SSH_PASSWORD", secret)
    sshd.stop()
    sshd.start("PasswordAuthentication yes")
    with caplog.at_level(logging.DEBUG):
        error = fails(sshd.spec(identity_files=()), "refuses the password")

    assert secret not in str(error) + error.log + caplog.text + "".join(capfd.readouterr())
    assert not any(secret in command(pid) for pid in [os.getpid(), *descendants(os.getpid())])


def test_proxy_jump(sshd: Sshd, tmp_path: Path) -> None:
    inner = Sshd(tmp_path / "inner")
    try:
        with open(sshd.known_hosts, "a") as known:
            known.write(inner.known_hosts.read_text())
        (inner.folder / "authorized_keys").write_text(sshd.user_key.with_suffix(".pub").read_text())
        spec = sshd.spec(port=inner.port, proxy_jump=f"127.0.0.1:{sshd.port}")
        with Connection(spec) as host:
            assert host.run("echo through").text == "through"
            sshd.cut()
            assert wait_for(lambda: not host.alive(), 20)
        inner.stop()
        fails(spec, f"does not reach 127.0.0.1 port {inner.port}")
    finally:
        inner.stop()


def test_the_session_is_killed(host: Connection, sshd: Sshd) -> None:
    sshd.cut()

    assert wait_for(lambda: not host.alive(), 20)
    with pytest.raises(HostError, match="the SSH connection was lost: "):
        host.run("true")


def test_a_late_word_of_the_vmm_is_heard(host: Connection) -> None:
    channel = host.open("sleep 0.5; echo late >&2")
    channel.settimeout(0.05)  # a read of the console may come before the first of its log
    console = ChannelConsole(channel)
    assert console.wait(20) == 0
    assert wait_for(lambda: console.log() == "late\n", 20)


def test_an_answer_to_a_keepalive_is_a_sign_of_life(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(connections, "ANSWER_S", 3.0)
    with Connection(sshd.spec()) as host:
        time.sleep(3.6)  # by 3.1 s it would be given up
        assert host.alive(), host.why_lost()


@pytest.mark.parametrize("how", ["frozen", "silent"])
def test_silence_is_noticed(sshd: Sshd, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connections.KEEPALIVE_S + connections.ANSWER_S <= 15
    monkeypatch.setattr(connections, "KEEPALIVE_S", 0.3)
    with Proxy(sshd.port) as proxy:
        spec = replace(sshd.spec(), known_hosts=(proxy.known_hosts(sshd),), port=proxy.port)
        with Connection(spec) as host:
            assert host.run("true").status == 0
            sshd.freeze() if how == "frozen" else proxy.stall()
            monkeypatch.setattr(connections, "ANSWER_S", 0.7)  # from now on: a busy machine may answer late before
            with pytest.raises(HostError, match="no sign of life"):
                host.run("true", deadline_s=20)
    sshd.freeze(thaw=True)
