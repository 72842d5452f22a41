"""QEMU and Bochs with the real executor: they start, answer, die when told to, and say what they died of."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli import machine
from harness.link.frames import bundle_image
from harness.link.link import Hello, Link, LinkClosed, LinkError, LinkTimeout
from harness.machine.base import Target, TargetError, TargetOptions
from harness.machine.process import start_time, state_directory
from harness.scenario.steps import mem_read
from harness.targets import create, names

pytestmark = pytest.mark.emulator

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "guest_payloads/executor/build"
DEADLINE_S = 20.0
Make = Callable[..., Target]


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    machine.build_executor()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made: list[Target] = []

    def new(name: str, **changes: object) -> Target:
        options = TargetOptions(tmp_path / name, BUILD / "executor.elf", BUILD / "disk.img")
        target = create(name, replace(options, **changes))  # type: ignore[arg-type]
        if target.missing():
            pytest.fail(f"{target.missing()} (the emulator tests need both emulators)")
        made.append(target)
        return target

    yield new
    for target in made:
        target.stop()


def boot(target: Target, *, lane: bool = True) -> tuple[Link, Hello]:
    capabilities = target.capabilities()
    console = target.start()
    memory = target.lane_memory() if lane and capabilities.shared_memory else None
    link = Link(console, lane=memory, round_trip_s=capabilities.round_trip_s)
    return link, link.hello(capabilities.boot_deadline_s)


def write(addr: int, data: bytes) -> bytes:
    return struct.pack("<BBHIQ", 0x01, 0, 0, 8 + len(data), addr) + data


def read(addr: int, size: int) -> bytes:
    step = mem_read(addr, size)
    return struct.pack("<BBHI", step.op, 0, 0, len(step.body)) + step.body


def code(addr: int, blob: bytes) -> bytes:
    return write(addr, blob) + struct.pack("<BBHIQIH", 0x09, 0, 0, 14, addr, 0, 0)


def children() -> list[Path]:
    return list(state_directory().glob("child-*.json"))


@pytest.mark.parametrize("name", names())
def test_it_boots_answers_and_stops(make: Make, name: str) -> None:
    target = make(name)
    link, hello = boot(target)
    data = bytes(range(256)) * 8

    answer = link.run(write(hello.arena_base, data) + read(hello.arena_base, len(data)), DEADLINE_S)

    assert answer[-len(data) :] == data
    assert hello.cpu_count == 1
    assert hello.cpuid.svm
    assert target.alive() and target.exit_reason() is None
    assert target.version_tuple > (2,)
    target.stop()
    assert not target.alive()
    assert children() == []


@pytest.mark.parametrize("name", names())
def test_a_second_start_is_another_boot(make: Make, name: str) -> None:
    target = make(name)

    _, first = boot(target)
    _, second = boot(target)

    assert first.boot_id != second.boot_id
    assert first.build_id == second.build_id
    assert len(children()) == 1


def test_both_lanes_give_the_same_answers(make: Make) -> None:
    target = make("qemu-tcg")
    answers = []
    for lane in (False, True):
        link, hello = boot(target, lane=lane)
        assert link.on_lane == lane
        at = hello.arena_base
        answers.append(
            [
                link.run(b"", DEADLINE_S),
                link.run(write(at, b"x" * 3000) + read(at, 30_000), DEADLINE_S),
                link.run(read(at + 2990, 20), DEADLINE_S),
                link.run(code(at, b"\x0f\x0b"), DEADLINE_S),  # ud2
                link.run(struct.pack("<BBHI", 0xEE, 0, 9, 0), DEADLINE_S),  # no such step
            ]
        )

    assert answers[0] == answers[1]
    assert len(answers[0][1]) > 30_000, "must have come in fragments"


def test_the_lane_can_be_left_and_taken_again(make: Make) -> None:
    target = make("qemu-tcg")
    link, hello = boot(target)
    memory = target.lane_memory()
    assert memory is not None
    memory[hello.arena_base : hello.arena_base + 4] = b"here"

    for _ in range(3):
        link.close_lane(DEADLINE_S)
        assert link.run(read(hello.arena_base, 4), DEADLINE_S).endswith(b"here")
        link.open_lane(memory, DEADLINE_S)
        assert link.run(read(hello.arena_base, 4), DEADLINE_S).endswith(b"here")


def test_a_triple_fault_is_told_from_a_crash(make: Make) -> None:
    target = make("qemu-tcg")
    link, hello = boot(target)
    lidt_and_fault = b"\x6a\x00\x6a\x00\x0f\x01\x1c\x24\x0f\x0b"  # push 0 twice; lidt [rsp]; ud2

    with pytest.raises(LinkClosed):
        link.run(code(hello.arena_base, lidt_and_fault), DEADLINE_S)

    assert target.exit_reason() == "machine reset (triple fault)"


def test_a_reset_is_told_from_a_triple_fault(make: Make) -> None:
    target = make("qemu-tcg")
    link, _ = boot(target)

    with pytest.raises(LinkError):
        link.reboot(DEADLINE_S)

    assert target.exit_reason() == "machine reset or switched off"


def test_an_emulator_that_crashes_says_of_what(make: Make) -> None:
    for name in names():
        target = make(name)
        link, _ = boot(target)
        (path,) = children()
        os.kill(int(path.read_text().split('"child": [')[1].split(",")[0]), signal.SIGSEGV)

        with pytest.raises(LinkClosed):
            link.run(b"", DEADLINE_S)

        assert "SIGSEGV" in (target.exit_reason() or "")
        target.stop()


def test_a_triple_fault_on_bochs_is_named(make: Make) -> None:
    target = make("bochs")
    link, hello = boot(target)

    with pytest.raises((LinkTimeout, LinkClosed)):
        link.run(code(hello.arena_base, b"\x6a\x00\x6a\x00\x0f\x01\x1c\x24\x0f\x0b"), 1.0)

    end = time.monotonic() + 20
    while "triple fault" not in (reason := target.exit_reason() or ""):
        assert time.monotonic() < end, reason
        time.sleep(0.01)


@pytest.mark.parametrize("name", names())
def test_a_hang_ends_at_the_deadline(make: Make, name: str) -> None:
    target = make(name)
    link, hello = boot(target)
    began = time.monotonic()

    with pytest.raises(LinkTimeout):
        link.run(code(hello.arena_base, b"\xeb\xfe"), 1.0)  # jmp $

    assert 1.0 <= time.monotonic() - began < 8.0
    assert target.alive()
    target.stop()
    assert time.monotonic() - began < 20.0


def test_two_cpus(make: Make) -> None:
    _, hello = boot(make("qemu-tcg", cpus=2))

    assert hello.cpu_count == 2
    with pytest.raises(TargetError, match="one CPU"):
        make("bochs", cpus=2).start()


# After a pause Bochs 2.7's FIFO timeout makes an empty FIFO look ready: the executor reads a byte twice.
@pytest.mark.parametrize("name", names())
def test_at_115200_baud_it_answers_all_the_same(make: Make, name: str) -> None:
    target = make(name, throttle_baud=115200)
    link, hello = boot(target)

    assert not link.on_lane
    sent_again = []
    for _ in range(3):  # a busy machine may make one of them late; a link that does not know the line's speed, each
        before = link.stats.retransmits
        answer = link.run(write(hello.arena_base, b"y" * 500) + read(hello.arena_base, 6000), DEADLINE_S)
        assert answer.count(b"y") == 500
        sent_again.append(link.stats.retransmits - before)
    assert min(sent_again) == 0, sent_again


def test_a_bundle_runs_by_itself(make: Make, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    at = 0x80_0000
    bundle.write_bytes(bundle_image([write(at, b"bundled"), read(at, 7)]))
    target = make("qemu-tcg", bundle=bundle)
    link = Link(target.start())

    link.hello(DEADLINE_S)
    result = link.collect_bundle(DEADLINE_S)

    assert (result.ran, result.stopped_early) == (2, 0)
    assert result.answers[2].endswith(b"bundled")
    assert link.run(read(at, 7), DEADLINE_S).endswith(b"bundled")


HOLD = """
import sys, time
from pathlib import Path
from harness.link.link import Link
from harness.targets import create
from harness.machine.base import TargetOptions
build = Path("guest_payloads/executor/build")
target = create(sys.argv[1], TargetOptions(Path(sys.argv[2]), build / "executor.elf", build / "disk.img"))
Link(target.start()).hello(60)
print(target._child.pid, flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("name", names())
def test_a_killed_harness_leaves_no_process_and_no_file(make: Make, name: str, tmp_path: Path) -> None:
    workdir = tmp_path / "killed"
    run = subprocess.Popen([sys.executable, "-c", HOLD, name, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    assert start_time(pid) is not None

    run.kill()
    run.wait()

    end = time.monotonic() + 20
    while start_time(pid) is not None:
        assert time.monotonic() < end, "the emulator outlived the harness"
        time.sleep(0.01)
    make(name).start()
    assert list(workdir.iterdir()) == []
    run.stdout.close()


@pytest.mark.parametrize("name", names())
def test_what_is_missing_is_named_with_its_package(make: Make, name: str, tmp_path: Path) -> None:
    target = make(name)
    options = TargetOptions(tmp_path, tmp_path, tmp_path, qemu_path="/nowhere/qemu", bochs_path="/nowhere/bochs")
    without = create(name, options)

    (missing,) = without.missing()

    assert missing.package in ("qemu-system-x86", "bochs")
    assert target.missing() == []
    with pytest.raises(TargetError, match="Debian"):
        without.start()
