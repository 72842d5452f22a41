"""Consoles do what their protocol says; the slow one is as slow as it says."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import tty

import pytest

from harness.machine.base import ConsoleClosed, ConsoleTimeout
from harness.machine.console import PtyConsole, SocketConsole, ThrottledConsole
from tests.fake_executor import SimClock


def test_a_socket_console_reads_writes_and_times_out() -> None:
    ours, theirs = socket.socketpair()
    console = SocketConsole(ours)
    with theirs:
        began = time.monotonic()
        assert console.read(0.05) == b""
        assert time.monotonic() - began >= 0.05
        assert console.read(0) == b""
        console.write(b"there", 20)
        assert theirs.recv(10) == b"there"
        theirs.sendall(b"back")
        assert console.read(20) == b"back"
    with pytest.raises(ConsoleClosed):
        console.read(20)
    with pytest.raises(ConsoleClosed):
        console.write(b"x", 20)
    console.close()
    console.close()


def test_a_socket_nobody_reads_is_a_timeout() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        console = SocketConsole(ours)
        with pytest.raises(ConsoleTimeout):
            console.write(bytes(10_000_000), 0.05)
        console.close()


def test_a_terminal_console_reads_writes_and_sees_the_end() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    with subprocess.Popen(["sleep", "300"]) as emulator:
        console = PtyConsole(master, os.pidfd_open(emulator.pid))
        assert console.read(0.02) == b""
        os.write(slave, b"\x00\x03\x11\x0a last words")
        assert console.read(20) == b"\x00\x03\x11\x0a last words"
        console.write(bytes(range(256)), 20)
        assert os.read(slave, 1000) == bytes(range(256))
        with pytest.raises(ConsoleTimeout):
            console.write(bytes(100_000), 0.05)
        os.write(slave, b"the end")
        emulator.kill()
        assert console.read(20) == b"the end"
        with pytest.raises(ConsoleClosed):
            console.read(20)
    console.close()
    console.close()
    os.close(slave)


def test_a_long_message_goes_through_a_terminal_in_pieces() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    sent = os.urandom(50_000)
    got = bytearray()

    def read_all() -> None:
        while len(got) < len(sent):
            got.extend(os.read(slave, 700))

    with subprocess.Popen(["sleep", "300"]) as emulator:
        console = PtyConsole(master, os.pidfd_open(emulator.pid))
        reader = threading.Thread(target=read_all, daemon=True)
        reader.start()
        console.write(sent, 20)
        reader.join(20)
        emulator.kill()
    assert bytes(got) == sent
    console.close()
    os.close(slave)


class Instant:
    """A console on which everything is there at once."""

    def __init__(self, coming: bytes) -> None:
        self.coming = coming
        self.written = b""

    def read(self, timeout_s: float) -> bytes:
        data, self.coming = self.coming, b""
        return data

    def write(self, data: bytes, deadline_s: float) -> None:
        self.written += data

    def close(self) -> None: ...


def test_a_throttled_console_takes_the_time_of_a_serial_line() -> None:
    clock = SimClock()

    def sleep(seconds: float) -> None:
        clock.now += seconds

    inner = Instant(bytes(1152))
    console = ThrottledConsole(inner, 115200, clock, sleep)

    console.write(bytes(1152), 1)
    assert inner.written == bytes(1152)
    assert clock.now == pytest.approx(0.1)

    got = b""
    while len(got) < 1152:
        got += console.read(0.01)
    assert clock.now == pytest.approx(0.2, rel=0.05)
    with pytest.raises(ConsoleTimeout):
        console.write(bytes(1152), 0.05)
