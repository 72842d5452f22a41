"""Each kind of console carries bytes both ways, and says in one line why it cannot be had."""

from __future__ import annotations

import os
import pty
import socket
import sys
import time
from pathlib import Path

import pytest

from harness.machine.base import ConsoleClosed, ConsoleTimeout
from harness.machine.process import start_time
from harness.metal.consoles import open_console
from harness.metal.error import MetalError

PROGRAM = 'import os; [os.write(1, os.read(0, 99)) for _ in range(2)]; os.write(2, b"bye\\n")'
ECHO = f"command:{sys.executable} -c '{PROGRAM}'"


def test_a_serial_line_of_this_machine() -> None:
    master, slave = pty.openpty()
    console = open_console("machine one", os.ttyname(slave), 57600)
    console.write(b"\0\r\n\x03\x11", 1.0)
    assert os.read(master, 99) == b"\0\r\n\x03\x11"
    os.write(master, b"\x00\x0d\x1a\x7f\xff")
    assert console.read(1.0) == b"\x00\x0d\x1a\x7f\xff"
    assert console.read(0.0) == b""

    with pytest.raises(MetalError, match="is in use by somebody else"):
        open_console("machine one", os.ttyname(slave), 57600)
    console.close()
    console.close()
    with pytest.raises(ConsoleClosed):
        console.read(0.0)
    os.close(master)
    os.close(slave)


def test_a_serial_line_that_takes_nothing() -> None:
    master, slave = pty.openpty()
    console = open_console("machine one", os.ttyname(slave), 115200)
    with pytest.raises(ConsoleTimeout):
        console.write(bytes(1 << 20), 0.1)
    console.close()
    os.close(master)
    os.close(slave)


def test_a_port_of_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        console = open_console("machine one", f"socket://127.0.0.1:{listener.getsockname()[1]}", 115200)
        far = listener.accept()[0]
    console.write(b"there", 1.0)
    assert far.recv(99) == b"there"
    far.sendall(b"back")
    assert console.read(1.0) == b"back"
    far.close()
    with pytest.raises(ConsoleClosed):
        console.read(1.0)
    console.close()


def test_what_a_command_reads_and_writes() -> None:
    console = open_console("machine one", ECHO, 115200)
    for said in (b"one\0", b"two"):
        console.write(said, 1.0)
        assert console.read(10.0) == said
    with pytest.raises(ConsoleClosed, match=r"machine one: console: .*python.* ended: bye"):
        console.read(10.0)
    console.close()


def test_a_command_is_ended_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    console = open_console("machine one", f"command:sh -c 'sleep 100 & echo $! > {mark}; echo up; wait'", 115200)
    assert console.read(10.0) == b"up\n"
    console.close()

    end = time.monotonic() + 10
    while start_time(int(mark.read_text())) is not None:  # it was sent the signal, and may take a moment
        assert time.monotonic() < end


@pytest.mark.parametrize(
    ("where", "baud", "complaint"),
    [
        ("/dev/nothing", 115200, "/dev/nothing: No such file"),
        ("/dev/null", 115200, "/dev/null is no serial line"),
        ("/dev/null", 110, "110 baud is none of 9600, "),
        ("socket://127.0.0.1:1", 115200, "Connection refused"),
        ("socket://there", 115200, "write socket://HOST:PORT"),
        ("command:", 115200, "console is empty"),
        ("command:nothing-of-the-kind", 115200, "nothing-of-the-kind: No such file"),
        ("telnet://x", 115200, "'telnet://x' is no console"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_line(where: str, baud: int, complaint: str) -> None:
    with pytest.raises(MetalError, match=f"^machine one: .*{complaint}"):
        open_console("machine one", where, baud)


def test_rfc2217() -> None:
    """The line is set up at the other end; FFh is doubled both ways; what the server wants besides is declined."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        console = open_console("machine one", f"rfc2217://127.0.0.1:{listener.getsockname()[1]}", 57600)
        far = listener.accept()[0]
    far.settimeout(5)
    opened = b""
    while not opened.endswith(bytes([255, 250, 44, 5, 1, 255, 240])):
        opened += far.recv(999)
    assert bytes([255, 251, 44]) in opened  # WILL COM-PORT-OPTION
    assert bytes([255, 250, 44, 1]) + (57600).to_bytes(4, "big") + bytes([255, 240]) in opened

    console.write(b"a\xff\0", 1.0)
    assert far.recv(99) == b"a\xff\xff\0"
    far.sendall(b"b\xff")
    assert console.read(1.0) == b"b"
    commands = b"\xff\xfd\x18\xff\xfb\x01\xff\xfd\x00"  # DO 24, WILL 1, DO BINARY
    far.sendall(b"\xff" + commands + b"c\xff\xfa\x2c\x6b")  # and half a report
    assert console.read(1.0) == b"\xffc"
    assert far.recv(99) == b"\xff\xfc\x18\xff\xfe\x01"
    far.sendall(b"\x00\xff\xf0\r\nd")
    assert console.read(1.0) == b"\r\nd"
    assert console.read(0.0) == b""
    far.close()
    with pytest.raises(ConsoleClosed):
        console.read(1.0)
    console.close()
