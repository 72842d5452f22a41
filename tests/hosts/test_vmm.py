"""nsvm-host without KVM: its usage, the lines it says, the leash, and terminals."""

from __future__ import annotations

import os
import pty
import random
import shutil
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.vmm import built, pid_in, runs, wait_until

NOBODY = 65534


def call(*arguments: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [built(), *arguments],
        **{"input": b"", "capture_output": True, "timeout": 30, "check": False, **more},  # type: ignore[call-overload]
    )


def one_line(ran: subprocess.CompletedProcess[bytes]) -> str:
    assert ran.stdout == b""
    line, end, rest = ran.stderr.decode().partition("\n")
    assert (end, rest) == ("\n", "")
    assert line.startswith("nsvm-host: ")
    return line


def test_it_is_static_and_needs_nothing() -> None:
    assert b"PT_INTERP" not in built().read_bytes()
    said = subprocess.run(["readelf", "-lW", built()], capture_output=True, text=True, timeout=30, check=True).stdout
    assert "INTERP" not in said and "DYNAMIC" not in said


@pytest.mark.parametrize("arguments", [(), ("help",), ("-x",)])
def test_usage(arguments: tuple[str, ...]) -> None:
    ran = call(*arguments)

    assert ran.returncode == 2
    assert ran.stderr.startswith(b"usage: nsvm-host kvm")


@pytest.mark.parametrize(
    "arguments",
    [
        ("kvm",),
        ("kvm", "a", "b"),
        ("kvm", "--cpus", "0", "a"),
        ("kvm", "--cpus", "9", "a"),
        ("kvm", "--cpus", "1x", "a"),
        ("kvm", "--cpus", "-1", "a"),
        ("kvm", "--cpus"),
        ("kvm", "--memory", "8", "a"),
        ("kvm", "--seconds", "99999999999999999999", "a"),
        ("kvm", "--entry", "bios", "a"),
        ("kvm", "--console", "tty", "a"),
        ("kvm", "--what", "1", "a"),
        ("kvm", "--clear", "", "a"),
        ("kvm", "--clear", "8000000a", "a"),
        ("kvm", "--clear", "8000000a.edx", "a"),
        ("kvm", "--clear", "8000000a.edx=", "a"),
        ("kvm", "--clear", "8000000a.edx=xyz", "a"),
        ("kvm", "--clear", "8000000a.edi=1", "a"),
        ("kvm", "--clear", "8000000a.0.0.edx=1", "a"),
        ("kvm", "--clear", "18000000a.edx=1", "a"),
        ("kvm", "--clear", "8000000a.edx=-1", "a"),
        ("kvm", "--quirks-off", "quirk", "a"),
        ("kvm", "--quirks-off", "100000000", "a"),
        ("leash",),
        ("leash", "--"),
        ("leash", "--on-end", "true"),
        ("leash", "--grace-ms", "x", "--", "true"),
        ("leash", "--what", "x", "--", "true"),
        ("tty",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...]) -> None:
    ran = call(*arguments)

    one_line(ran)
    assert ran.returncode == 2


def test_without_kvm_it_says_what_to_do() -> None:
    ran = call("kvm", "--device", "/nonexistent/kvm", "executor.elf")

    assert ran.returncode == 3
    assert one_line(ran) == (
        "nsvm-host: there is no /nonexistent/kvm: load KVM with `modprobe kvm_amd nested=1`, "
        "and turn SVM on in the firmware's setup"
    )


def test_what_is_not_kvm_is_told_from_it() -> None:
    ran = call("kvm", "--device", "/dev/null", "--clear", "8000000A.0.EDX=0x8", "executor.elf")

    assert ran.returncode == 3
    assert one_line(ran) == "nsvm-host: /dev/null does not speak KVM's API 12"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_permission_it_says_what_to_do() -> None:
    folder = Path(tempfile.mkdtemp(prefix="nsvm-test-"))
    try:
        folder.chmod(0o755)
        device = folder / "kvm"
        device.touch(0o600)
        ours = shutil.copy(built(), folder)
        ran = subprocess.run(
            [ours, "kvm", "--device", device, "x"], capture_output=True, timeout=30, check=False, user=NOBODY
        )
        assert ran.returncode == 3
        assert "may not be opened by this user: `usermod -aG kvm USER`" in one_line(ran)
    finally:
        shutil.rmtree(folder)


class Leash:
    """A leash under way, with what shows whether its command runs and whether the end was seen to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid_file = folder / "pid"
        self.ended = folder / "ended"
        self.process: subprocess.Popen[bytes] | None = None

    def argv(self, script: str, *options: str) -> list[str]:
        on_end = f"sleep 0.05; echo done >> '{self.ended}'; echo noise"
        command = ["sh", "-c", f"echo $$ > '{self.pid_file}'; {script}"]
        return [str(built()), "leash", "--on-end", on_end, *options, "--", *command]

    def start(self, script: str, *options: str, shell: bool = False) -> subprocess.Popen[bytes]:
        """`shell`: with a parent that is not we."""
        argv = self.argv(script, *options)
        if shell:
            argv = ["sh", "-c", '"$@"; exit $?', "sh", *argv]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return self.process

    def check_ended(self) -> None:
        """The command is gone, and its end was seen to, once."""
        wait_until(lambda: self.ended.exists() and self.ended.read_text() != "")
        assert self.ended.read_text() == "done\n"
        wait_until(lambda: not runs(pid_in(self.pid_file)))


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[Leash]:
    leash = Leash(tmp_path)
    yield leash
    if leash.process is not None:
        leash.process.kill()
        leash.process.wait(10)
        for pipe in (leash.process.stdin, leash.process.stdout, leash.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143), ("echo out; exit 3", 3)]
)
def test_the_status_is_passed_on(leash: Leash, script: str, status: int) -> None:
    process = leash.start(script)
    assert process.stdout is not None

    assert process.stdout.read() == (b"out\n" if "out" in script else b"")
    assert process.wait(10) == status
    leash.check_ended()


def test_a_command_that_is_not_there() -> None:
    process = subprocess.Popen(
        [built(), "leash", "--", "nsvm-no-such-thing"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None

    assert process.wait(10) == 127
    assert process.stderr.read() == b"nsvm-host: leash: nsvm-no-such-thing: No such file or directory\n"
    process.communicate()


def test_a_megabyte_both_ways_is_whole(leash: Leash) -> None:
    data = random.Random(1).randbytes(1 << 20)
    process = leash.start("exec cat")
    assert process.stdin is not None and process.stdout is not None
    stdin = process.stdin
    feeder = threading.Thread(target=lambda: (stdin.write(data), stdin.flush()))
    feeder.start()

    got = process.stdout.read(len(data))
    feeder.join(10)

    assert got == data
    assert process.poll() is None
    process.stdin.close()
    assert process.stdout.read() == b""
    leash.check_ended()


@pytest.mark.parametrize(("size_bytes", "nap_s"), [(1_000_000, 0.3), (120_000, 0.6)])
def test_all_comes_out_after_the_commands_end(leash: Leash, size_bytes: int, nap_s: float) -> None:
    process = leash.start(f"head -c {size_bytes} /dev/zero; exit 5")
    assert process.stdout is not None

    time.sleep(nap_s)  # nobody reads at first; of the smaller the pipe and the leash can hold all

    assert process.stdout.read() == bytes(size_bytes)
    assert process.wait(10) == 5


@pytest.mark.parametrize("stubborn", [False, True])
def test_the_end_of_stdin_ends_the_command(leash: Leash, stubborn: bool) -> None:
    script = "trap '' TERM; while :; do sleep 0.1; done" if stubborn else "exec sleep 100"
    process = leash.start(script, *(["--grace-ms", "200"] if stubborn else []))
    assert process.stdin is not None
    pid_in(leash.pid_file)

    began = time.monotonic()
    process.stdin.close()

    assert process.wait(10) == (137 if stubborn else 143)
    assert not stubborn or time.monotonic() - began >= 0.2
    leash.check_ended()


def test_the_end_of_stdin_is_seen_though_the_command_takes_nothing(leash: Leash) -> None:
    process = leash.start("exec sleep 100")
    assert process.stdin is not None
    pid_in(leash.pid_file)
    os.set_blocking(process.stdin.fileno(), False)
    filled = 0
    while filled < 10 << 20:
        try:
            filled += os.write(process.stdin.fileno(), bytes(4096))
        except BlockingIOError:
            break
    assert filled < 10 << 20, "the leash takes what nobody wants"

    process.stdin.close()

    assert process.wait(10) == 143
    leash.check_ended()


def test_nobody_reads_any_more(leash: Leash) -> None:
    process = leash.start("while :; do echo y; done")
    assert process.stdout is not None

    process.stdout.close()

    assert process.wait(10) in (141, 143)
    leash.check_ended()


@pytest.mark.parametrize("number", [1, 2, 9, 15])
def test_whatever_ends_the_leash_ends_the_command(leash: Leash, number: int) -> None:
    process = leash.start("exec sleep 100")
    pid_in(leash.pid_file)

    process.send_signal(number)

    process.wait(10)
    leash.check_ended()


@pytest.mark.parametrize("number", [9, 15])
def test_the_end_of_the_parent_ends_the_command(leash: Leash, number: int) -> None:
    process = leash.start("exec sleep 100", shell=True)
    pid_in(leash.pid_file)

    process.send_signal(number)

    process.wait(10)
    leash.check_ended()


def test_what_the_command_left_behind_is_ended_too(leash: Leash) -> None:
    process = leash.start("sleep 100 & exit 4")
    assert process.stdout is not None

    assert process.wait(10) == 4
    assert process.stdout.read() == b""


def test_the_end_of_the_guardian_ends_the_command(leash: Leash) -> None:
    process = leash.start("exec sleep 100")
    command = pid_in(leash.pid_file)
    guardian = int(Path(f"/proc/{command}/stat").read_text().rpartition(")")[2].split()[1])
    assert guardian != process.pid

    os.kill(guardian, 9)

    assert process.wait(10) == 3
    wait_until(lambda: not runs(command))


def test_a_terminal_passes_every_byte_both_ways() -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    assert termios.tcgetattr(slave)[3] & termios.ECHO, "a terminal echoes at first"
    process = subprocess.Popen([built(), "tty", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    wait_until(lambda: not termios.tcgetattr(slave)[3] & termios.ECHO)
    data = bytes(range(256)) * 3

    os.write(master, data)
    assert process.stdout.read(len(data)) == data
    process.stdin.write(data + b"\x1d")
    process.stdin.flush()
    got = b""
    while len(got) < len(data) + 1:
        got += os.read(master, 4096)
    assert got == data + b"\x1d"
    assert process.poll() is None

    os.close(slave)
    os.close(master)
    assert process.wait(10) == 0
    process.communicate()
