"""What L0 said is seen, kept, bounded and judged; what others said is kept and not judged."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hosts import follower, kernel_log, tracepoints
from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.problems import Grade
from harness.hosts.ring import Ring
from harness.hosts.watch import Watch
from tests.hosts.conftest import MakeHost
from tests.hosts.fake_l0 import FakeL0
from tests.hosts.l0_logs import HOSTILE, OOPS, WARN, XEN_PANIC, FakeHost, LocalStream, escaped, eventually, kmsg
from tests.hosts.sshd import Sshd, command, descendants


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def watch(host: FakeHost) -> Iterator[Watch]:
    watch = Watch("kvm")
    watch.attach(host)
    yield watch
    watch.detach()


def test_an_oops_is_fatal_and_the_evidence_has_all_of_it(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    assert watch.fatal(mark) is None
    host.say(kmsg(OOPS, 42))
    said = watch.evidence(mark)
    assert watch.fatal(mark) == f"[   10.000000] {OOPS.splitlines()[0]}"
    for line in OOPS.splitlines():
        assert line in said
    assert "older" not in said
    assert watch.fatal(watch.mark()) is None, "the next test is not blamed for it"


def test_a_warning_is_listed_and_not_fatal(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(kmsg(WARN, 42))
    host.answers["cat /proc/sys/kernel/tainted"] = b"512\n"
    assert "nested_svm_vmexit" in watch.evidence(mark)
    assert watch.fatal(mark) is None
    assert [line.partition("] ")[2][:12] for line in watch.noteworthy(mark)] == ["WARNING: CPU", ""]
    assert "tainted now: W (a warning)" in watch.noteworthy(mark)[1]


def test_an_oops_whose_text_is_lost_shows_in_the_taint(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.answers["cat /proc/sys/kernel/tainted"] = b"128\n"
    assert watch.look() is None
    assert watch.fatal(mark) == "--- the kernel is tainted now: D (the kernel died: an oops or a BUG) ---"


def test_a_host_that_had_an_oops_before_is_not_blamed(host: FakeHost) -> None:
    host.before = kmsg(OOPS, 20, time_us=5_000_000) + kmsg("older", 41, time_us=9_999_999)
    host.taint = 4224
    host.answers["cat /proc/sys/kernel/tainted"] = b"4224\n"
    watch = Watch("kvm")
    began = watch.mark()
    watch.attach(host)
    assert watch.fatal(began) is None
    assert watch.look() is None and watch.fatal(began) is None
    watch.detach()


def test_a_process_that_writes_an_oops_into_the_log_is_not_believed(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(kmsg(OOPS, 42, priority=12))
    said = watch.evidence(mark)
    assert "(user space) Oops: 0002 [#1]" in said
    assert watch.fatal(mark) is None
    assert watch.noteworthy(mark) == []


def test_hostile_text_is_escaped_and_forges_nothing(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(kmsg(f"harmless {HOSTILE}", 42))
    host.say(b"\x1b[2J(XEN) Panic\xff\x00\n!boot other\x1b\n!none \xff\n,,,;Oops: 0002 [#1]\n")
    host.say(b"4,99999999999999999999999,1,-;BUG: x\n")
    said = watch.evidence(mark)
    assert said.isascii() and all(c == "\n" or c.isprintable() for c in said)
    assert escaped("\x1b[2J") in said
    assert [line for line in said.split("\n") if line.startswith("(XEN)")] == []
    assert watch.fatal(mark) is None


def test_ten_megabytes_do_not_hide_what_came_first(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(kmsg(OOPS, 42))
    noise = "x" * 500
    for block in range(200):
        host.say(kmsg("\n".join([noise] * 100), 100 + block * 100, time_us=11_000_000 + block * 100))
    assert eventually(lambda: watch.mark().line >= 20_000, 60)
    assert watch.fatal(mark) is not None
    said = watch.evidence(mark)
    assert len(said) <= 66_000
    assert "Oops: 0002 [#1]" in said and "of which no more is kept" in said


def test_a_line_without_end_is_bounded(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(b"4,42,10000000,-;BUG: " + b"y" * 3_000_000)
    host.say(b"z" * 3_000_000 + b"\n" + kmsg("after", 43))
    assert eventually(lambda: "after" in watch.evidence(mark))
    assert len(watch.evidence(mark)) < 3000
    assert watch.fatal(mark) is not None


def test_the_log_overtook_us_and_is_opened_again(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(kmsg("first", 42))
    host.before += kmsg("first", 42) + kmsg("second", 50)
    host.last = "[   10.000000] second"
    host.say(b"")
    assert eventually(lambda: len(host.streams) == 2 and watch.mark().line >= mark.line + 3)
    said = watch.evidence(mark)
    assert said.count("first") == 1 and "second" in said
    assert "7 records of the kernel's log were lost" in said


def test_a_reboot_is_seen_and_the_numbers_begin_anew(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.boot_id, host.last = "another", "[    1.000000] booted"
    host.before = kmsg("booted", 7, time_us=1_000_000)
    host.taint = 512
    host.answers["for d in /sys/fs/pstore"] = b"/sys/fs/pstore/dmesg-erst-1:\n<0>Kernel panic - not syncing: gone\n\n"
    watch.attach(host)
    host.say(kmsg("since then", 8, time_us=1_000_001))
    host.settle()
    said = watch.evidence(mark)
    assert "has rebooted" in said and "[    1.000000] booted" not in said
    assert "since then" in said and "tainted now" not in said
    assert "(kept by firmware) <0>Kernel panic - not syncing: gone" in said
    assert watch.evidence(mark).count("Kernel panic") == 1, "asked for once"
    assert watch.fatal(mark) is None


def test_a_restored_host_has_the_same_boot_and_is_followed_all_the_same(host: FakeHost, watch: Watch) -> None:
    host.say(kmsg("said before", 42) + kmsg("and this", 60, time_us=20_000_000))
    assert eventually(lambda: "and this" in watch.evidence(watch.mark()) or watch.mark().line >= 3)
    watch.attach(host)
    mark = watch.mark()
    host.say(kmsg(OOPS, 42))
    said = watch.evidence(mark)
    assert "Oops: 0002" in said and "older" not in said
    assert watch.fatal(mark) is not None


def test_a_lost_connection_leaves_what_had_come(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(kmsg(OOPS, 42))
    assert eventually(lambda: watch.fatal(mark) is not None)
    host.broken = HostError("host lab: the SSH connection was lost: reset")
    host.say(b"")
    said = watch.evidence(mark)
    assert "Only what had come before: the host does not answer: host lab" in said and "Oops: 0002" in said
    watch.detach()
    assert "Oops: 0002" in watch.evidence(mark), "also after the end"


def test_a_user_who_may_not_read_the_log_is_told(host: FakeHost) -> None:
    watch = Watch("kvm")
    host.refuses = b"!boot b00t\n!up [10.00]\n!none cat: can't open '/dev/kmsg': Operation not permitted\n"
    watch.attach(host)
    assert "The kernel's log is not followed: this user may not read it (cat: can't open" in watch.evidence(
        watch.mark()
    )
    watch.detach()


def test_a_journal_is_read_where_the_log_may_not_be(host: FakeHost, watch: Watch) -> None:
    mark = watch.mark()
    host.say(b"!journal\n[   12.000001] zen3-a kernel: BUG: unable to handle page fault for address: 0\n")
    host.say(b"[   12.000002] zen3-a evil[12]: Oops: 0002 [#1]\n")
    said = watch.evidence(mark)
    assert "(user space) Oops" in said
    assert (watch.fatal(mark) or "").startswith("[   12.000001] BUG: unable")


def test_stalls_of_an_emulated_host_are_told_and_not_fatal(host: FakeHost) -> None:
    watch = Watch("kvm", stalls_fatal=False)
    watch.attach(host)
    mark = watch.mark()
    host.say(kmsg("rcu: INFO: rcu_preempt self-detected stall on CPU", 42))
    assert watch.look() is None
    assert watch.fatal(mark) is None and len(watch.noteworthy(mark)) == 1
    watch.detach()


def test_what_a_guest_prints_through_xen_is_not_a_crash(host: FakeHost) -> None:
    host.answers["xl dmesg"] = ring = b"(XEN) Xen version 4.17.5\n" * 10
    watch = Watch("xen")
    watch.attach(host)
    assert eventually(lambda: bool(host.scripts))
    mark = watch.mark()
    assert watch.evidence(mark) == ""
    lies = "\n".join(f"(d5) {line}" for line in (*XEN_PANIC.split("\n"), *OOPS.split("\n"), HOSTILE))
    host.answers["xl dmesg"] = ring = ring + lies.encode() + b"\nOops: 0002 [#1]\nKernel panic - not syncing\n"
    said = watch.evidence(mark)
    assert "(d5) (XEN) Panic on CPU 0:" in said
    assert watch.fatal(mark) is None
    host.answers["xl dmesg"] = ring + b"(XEN) domain_crash called from svm.c:12\n"
    assert watch.look() is None
    assert watch.fatal(mark) == "(XEN) domain_crash called from svm.c:12"
    watch.detach()


def test_a_trace_belongs_to_the_evidence(host: FakeHost, watch: Watch) -> None:
    assert watch.trace_on("nsvm-r1-gw0") == "on 9"
    assert "instances/nsvm-r1-gw0" in host.scripts[-1]
    host.answers[tracepoints.read_command("nsvm-r1-gw0")[:20]] = (
        b"# tracer: nop\n  x-1 [000] 1.0: kvm_nested_vmenter: rip\n"
    )
    assert watch.evidence(watch.mark()) == "What KVM did at the end:\n  x-1 [000] 1.0: kvm_nested_vmenter: rip"
    asked = len(host.scripts)
    assert watch.evidence(watch.begin()) == "", "the next test is not traced"
    assert "rmdir" in host.scripts[asked]
    asked = len(host.scripts)
    watch.begin()
    assert len(host.scripts) == asked, "nothing to change costs nothing"
    for name in ("other", "nsvm-../../x", "nsvm-a b", "nsvm-$(id)", "nsvm-x\n"):
        with pytest.raises(ValueError, match="no name of a guest"):
            tracepoints.on_script(name)


def test_a_ring_keeps_its_positions_when_it_wraps() -> None:
    ring = Ring(limit=1000)
    for number in range(100):
        ring.append(f"line {number} {'.' * 40}", Grade.FATAL if number == 3 else None)
    assert ring.position == 100
    assert ring.since(99).startswith("line 99")
    said = ring.since(0)
    assert "line 3 " in said and "line 23 " in said and "of which no more is kept" in said
    assert [item.at for item in ring.found(0)] == [3]
    assert ring.found(4) == []


def test_marks_are_cheap(host: FakeHost, watch: Watch) -> None:
    began = time.thread_time()
    for _ in range(10_000):
        watch.fatal(watch.mark())
    assert time.thread_time() - began < 2 and host.scripts == []


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="no Linux")
def test_the_follower_reads_a_file_by_a_real_shell_and_ends_with_its_stdin(tmp_path: Path) -> None:
    fifo = tmp_path / "kmsg"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    stream = LocalStream(kernel_log.FOLLOW.replace("/dev/kmsg", str(fifo)))
    os.write(writer, kmsg("hello", 1))
    got = b""
    deadline = time.monotonic() + 20
    while b"hello" not in got and time.monotonic() < deadline:
        got += stream.recv(4096)
    assert got.startswith(b"!boot ") and b"\n!last " in got and b"\n!up [" in got
    below = descendants(stream.process.pid)
    assert any("cat" in command(pid) for pid in below)
    stream.close()
    assert stream.process.returncode is not None
    assert eventually(lambda: not any(str(fifo) in command(pid) for pid in below)), "nothing may stay"
    os.close(writer)


def test_over_a_real_sshd_nothing_stays_when_the_connection_dies(tmp_path: Path) -> None:
    sshd = Sshd(tmp_path / "ssh")
    watch = Watch("kvm")
    fifo = tmp_path / "kmsg"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    follow, follower.FOLLOW = follower.FOLLOW, kernel_log.FOLLOW.replace("/dev/kmsg", str(fifo))
    try:
        os.write(writer, kmsg("before", 41, time_us=1))
        host = Connection(sshd.spec())
        watch.attach(host)
        mark = watch.mark()
        os.write(writer, kmsg(OOPS, 42, time_us=10**15))
        assert eventually(lambda: watch.fatal(mark) is not None)
        assert sshd.process is not None
        below = descendants(sshd.process.pid)
        assert any(str(fifo) in command(pid) for pid in below)
        sshd.cut()
        assert eventually(lambda: not any(str(fifo) in command(pid) for pid in below))
        said = watch.evidence(mark)
        assert "Oops: 0002" in said and "Only what had come before" in said
        host.close()
    finally:
        follower.FOLLOW = follow
        watch.detach()
        sshd.stop()
        os.close(writer)


def test_a_guest_that_prints_an_oops_is_not_believed(
    make_host: MakeHost, l0: FakeL0, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies = f"{OOPS}\n{XEN_PANIC}\n[    1.000000] Kernel panic - not syncing: lies\n"
    monkeypatch.setattr(l0, "start_command", lambda guest: f"printf %s {shlex.quote(lies)}; exec cat >/dev/null")
    host = make_host()
    console = host.start()
    host.mark_evidence()
    said = b""
    deadline = time.monotonic() + 20
    while b"lies" not in said and time.monotonic() < deadline:
        said += console.read(0.1)
    assert b"Oops: 0002 [#1]" in said and b"(XEN) Panic on CPU 0:" in said
    assert host.exit_reason() is None, "a hang stays a hang"
    assert host.l0_failure() is None
    assert "0002" not in host.evidence()
