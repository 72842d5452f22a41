"""A target over a real sshd, with a fake L0 behind: what may happen to it, and that nothing is lost."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from harness.hosts import lease as leases
from harness.hosts.errors import HostError
from harness.link.link import LinkClosed, LinkError, LinkTimeout
from harness.machine.base import TargetError
from harness.targets.ssh_host import SshHost
from tests.hosts.conftest import MakeHost, boot, wait_for
from tests.hosts.fake_l0 import FakeL0
from tests.hosts.proxy import Proxy
from tests.hosts.sshd import Sshd, command, descendants


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[Proxy]:
    with Proxy(sshd.port) as made:
        yield made


def test_it_starts_answers_and_leaves_nothing(make_host: MakeHost, l0: FakeL0, sshd: Sshd) -> None:
    host = make_host()
    assert host.version() == "fake 1.2 on here" and host.version_tuple == (1, 2)
    assert not Path(host.spec.workdir).exists(), "to ask is not to take"
    link = boot(host)
    answers = {link.run(bytes([number]) * 100, 20) for number in range(50)}
    assert len(answers) == 50 and link.stats.retransmits == 0
    assert host.alive() and host.exit_reason() is None and host.lane_memory() is None
    assert host.name == "host:lab" and host.baselines == ("kvm",)

    first = host.hold.connection
    link = boot(host)
    assert host.hold.connection is first and l0.guests() == ["nsvm-run1-main"]
    link.run(b"again", 20)
    began = time.monotonic()
    host.stop()
    assert time.monotonic() - began < 20 and l0.guests() == [] and not host.alive() and host.exit_reason() is None
    host.stop()
    host.close()
    host.close()
    assert not Path(host.spec.workdir).exists() and wait_for(lambda: not sshd.sessions(), 20)


def test_a_guest_that_may_be_there_is_ended_first(
    make_host: MakeHost, l0: FakeL0, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none is looked for on a machine that was restored from before the first one."""
    ended: list[str] = []
    stop = l0.stop_script
    monkeypatch.setattr(l0, "stop_script", lambda name: ended.append(name) or stop(name))
    host = make_host()
    host.hold.untouched = True
    boot(host)
    assert ended == []

    another = SshHost(host.spec, host._options, l0=l0, hold=host.hold)
    boot(another)
    assert ended == ["nsvm-run1-main"]


def test_it_can_be_started_after_close(make_host: MakeHost) -> None:
    host = make_host()
    boot(host)
    host.close()
    boot(host).run(b"x", 20)


def test_what_a_person_would_type(make_host: MakeHost, sshd: Sshd) -> None:
    line = make_host().command_line()
    assert line[0] == "ssh" and str(sshd.port) in line and line[-2] == "--" and "executor" in line[-1]


def test_wrong_use_is_one_line(make_host: MakeHost, l0: FakeL0, sshd: Sshd) -> None:
    with pytest.raises(TargetError, match="at most 2"):
        make_host(cpus=3).start()
    refused = make_host(spec=sshd.spec(identity_files=(sshd.make_key("other"),)))
    for ask in (refused.start, refused.version, lambda: refused.version_tuple):
        with pytest.raises(TargetError, match="refuses every key"):
            ask()
    assert "refuses every key" in refused.missing()[0].what
    l0.lacks = ["nested=0: modprobe -r kvm_amd; modprobe kvm_amd nested=1"]
    assert make_host().missing()[0].what == l0.lacks[0]


@pytest.mark.parametrize(("status", "reason"), [(33, "the fake: triple fault"), (7, "ended with 7: out of luck")])
def test_the_guest_ends_by_itself(make_host: MakeHost, l0: FakeL0, status: int, reason: str) -> None:
    l0.order({"at": 1, "do": "exit", "status": status, "say": "first\nout of luck"})
    host = make_host()
    link = boot(host)
    with pytest.raises(LinkClosed):
        for _ in range(3):
            link.run(b"x", 20)
    assert wait_for(lambda: not host.alive() and "out of luck" in host.log_tail(), 20)
    assert reason in (host.exit_reason() or "")
    boot(host).run(b"x", 20)
    assert host.exit_reason() is None


def test_the_guest_is_killed(make_host: MakeHost, l0: FakeL0) -> None:
    host = make_host()
    link = boot(host)
    os.kill(l0.pid("nsvm-run1-main"), signal.SIGKILL)
    with pytest.raises(LinkClosed):
        link.run(b"x", 20)
    assert host.exit_reason() == "the guest ended, its VMM died of a signal"
    boot(host).run(b"x", 20)


def test_the_guest_hangs_and_will_not_end(make_host: MakeHost, l0: FakeL0) -> None:
    l0.order({"at": 1, "do": "hang"})
    host = make_host()
    link = boot(host)
    link.run(b"x", 20)
    with pytest.raises(LinkTimeout):
        link.run(b"x", 1)
    assert host.exit_reason() is None and host.alive()
    pid = l0.pid("nsvm-run1-main")
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    host.stop()
    assert time.monotonic() - began < 20  # HANG_UP_S and STOP_S are 4.5 s
    os.kill(pid, signal.SIGKILL)
    (l0.registry / "nsvm-run1-main").unlink(missing_ok=True)
    boot(host).run(b"x", 20)


def test_a_megabyte_of_noise(make_host: MakeHost, l0: FakeL0) -> None:
    l0.order({"at": 2, "do": "flood", "bytes": 1 << 20}, {"at": 1, "do": "complain", "bytes": 6 << 20})
    host = make_host()
    link = boot(host)
    for number in range(6):
        link.run(bytes([number]), 10)
    assert link.console_text
    link = boot(host)
    for number in range(6):
        link.run(bytes([number]), 10)
    assert len(host.log_tail()) <= 64 * 1024 and "the VMM complains" in host.log_tail()


def test_a_lost_connection_is_no_crash_of_the_guest(
    make_host: MakeHost, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a connection ends its channels do so a moment before it is known."""
    host = make_host()
    link = boot(host)
    unlink = paramiko.Channel._unlink
    monkeypatch.setattr(paramiko.Channel, "_unlink", lambda channel: [unlink(channel), time.sleep(0.1)])
    sshd.cut()
    with pytest.raises(LinkError):
        link.run(b"x", 20)

    assert (host.exit_reason() or "").startswith("the SSH connection was lost: ") and host.way_lost()


@pytest.mark.parametrize("how", ["session killed", "cut in a frame", "reset"])
def test_the_connection_is_lost(make_host: MakeHost, l0: FakeL0, sshd: Sshd, proxy: Proxy, how: str) -> None:
    spec = replace(sshd.spec(), port=proxy.port, known_hosts=(proxy.known_hosts(sshd),))
    host = make_host(spec=spec)
    link = boot(host)
    link.run(b"x", 20)
    if how == "session killed":
        sshd.cut()
    elif how == "reset":
        proxy.drop()
    else:
        proxy.cut_after(60)
    with pytest.raises(LinkError):
        link.run(b"y" * 300, 20)

    reason = host.exit_reason() or ""
    assert reason.startswith("the SSH connection was lost: ") and "the host is back, in the same boot" in reason
    assert host.exit_reason() == reason and host.way_lost()
    boot(host).run(b"again", 20)
    assert not host.way_lost()
    assert l0.guests() == ["nsvm-run1-main"], "the guest of before is gone"
    host.close()
    assert not Path(spec.workdir).exists() and l0.guests() == []


def test_the_host_reboots(
    make_host: MakeHost, l0: FakeL0, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("the first\n")
    monkeypatch.setattr(leases, "BOOT_ID", str(boot_id))
    host = make_host()
    link = boot(host)
    sshd.stop()
    assert not any("sshd" in command(pid) for pid in descendants(os.getpid()))
    with pytest.raises(LinkError):
        link.run(b"x", 20)
    boot_id.write_text("the second\n")
    for path in l0.registry.glob("nsvm-*"):
        path.unlink()
    sshd.start()

    assert (host.exit_reason() or "").startswith("the host rebooted (the SSH connection was lost: ")
    assert not host.way_lost()
    boot(host).run(b"x", 20)
    assert any("has rebooted" in line for line in host.hold.story)


def test_a_host_that_stays_away_is_given_up(make_host: MakeHost, sshd: Sshd, tmp_path: Path) -> None:
    power = tmp_path / "power"
    power.write_text(f"#!/bin/sh\necho pressed >> {tmp_path}/pressed; echo the BMC says hello\n")
    power.chmod(0o755)
    host = make_host(spec=sshd.spec(grace_s=1.0, power_command=f"{power} -P secret"))
    boot(host)
    sshd.stop()
    with pytest.raises(TargetError, match=r"refuses the connection.*not after its power command either") as caught:
        host.start()
    assert "the BMC says hello" in caught.value.log
    with pytest.raises(TargetError, match="refuses the connection"):
        host.start()
    assert (tmp_path / "pressed").read_text() == "pressed\n", "it is waited for once only"
    assert f"power_command ({power} ...)" in host.log_tail() and "secret" not in host.log_tail()
    sshd.start()
    boot(host).run(b"x", 20)


def test_a_power_command_brings_it_back(make_host: MakeHost, sshd: Sshd, tmp_path: Path) -> None:
    power = tmp_path / "power"
    answers = f"import socket; socket.create_connection(('127.0.0.1', {sshd.port}), 1)"
    power.write_text(
        f"#!/bin/sh\n{sshd.program} -f {sshd.folder}/sshd_config -D & echo $! > {tmp_path}/pid\n"
        f'until {shlex.quote(sys.executable)} -c "{answers}" 2>/dev/null; do sleep 0.1; done\n'
    )
    power.chmod(0o755)
    host = make_host(spec=sshd.spec(grace_s=2.0, power_command=str(power)))
    boot(host)
    sshd.stop()
    try:
        boot(host).run(b"x", 20)
        assert any("came back after its power command" in line for line in host.hold.story)
        host.close()
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_another_run_has_the_host(make_host: MakeHost) -> None:
    boot(make_host("first"))
    with pytest.raises(HostError, match=r"is in use by .*, run first, since") as caught:
        make_host("second").start()
    assert isinstance(caught.value, TargetError)


def test_a_run_asks_for_the_host_before_it_begins(make_host: MakeHost) -> None:
    boot(make_host(run="first"))
    second = make_host(run="second")
    with pytest.raises(HostError, match=r"is in use by .*, run first, since"):
        second.claim()


def test_two_workers_of_a_run(make_host: MakeHost, l0: FakeL0) -> None:
    one, two = make_host(worker="gw0"), make_host(worker="gw1")
    links = [boot(one), boot(two)]
    assert l0.guests() == ["nsvm-run1-gw0", "nsvm-run1-gw1"]
    assert links[0].run(b"x", 20) == links[1].run(b"x", 20)
    one.close()
    links[1].run(b"y", 20)
    assert l0.guests() == ["nsvm-run1-gw1"]
    two.close()
    assert not Path(one.spec.workdir).exists()


def test_a_slow_line_can_be_asked_for(make_host: MakeHost) -> None:
    host = make_host(throttle_baud=115200)
    assert host.capabilities().round_trip_s > 0.03
    began = time.monotonic()
    boot(host).run(b"x" * 500, 20)
    assert time.monotonic() - began > 0.04
