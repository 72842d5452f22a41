"""The consoles and BMCs that labs have, as their own programs: ser2net with RFC 2217, conserver, OpenIPMI's ipmi_sim.

Behind each stands the pretended executor on a pseudo-terminal or a port. Needs NSVM_WHOLE=1: packages are fetched.
"""

from __future__ import annotations

import os
import pty
import random
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.link.link import Link
from harness.metal.consoles import open_console
from tests.fake_executor import FakeTarget
from tests.metal.debian import Files, fetched

pytestmark = pytest.mark.skipif(not os.environ.get("NSVM_WHOLE"), reason="NSVM_WHOLE=1 is missing: it fetches packages")

PACKAGES = ("ser2net", "libgensio4", "libsctp1", "libyaml-0-2", "libopenipmi0", "conserver-client", "conserver-server",
            "openipmi", "ipmitool", "libfreeipmi17", "libsnmp40", "libpopt0")  # fmt: skip


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return fetched(PACKAGES, tmp_path_factory.mktemp("tools") / "packages")


def environment(tools: Files) -> dict[str, str]:
    libraries = f"{tools.folder}/usr/lib/x86_64-linux-gnu:{tools.folder}/lib/x86_64-linux-gnu"
    plugins = str(tools.find("libgensio_serialdev.so").parent)
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "GENSIO_LIBRARY_PATH": plugins}


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def relayed(first: int, second: int) -> Iterator[None]:
    """Bytes go between two descriptors."""
    stop = threading.Event()

    def go() -> None:
        while not stop.is_set():
            for fd in select.select([first, second], [], [], 0.05)[0]:
                with suppress(OSError):
                    os.write(second if fd == first else first, os.read(fd, 4096))

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(5)


@contextmanager
def serial_machine() -> Iterator[str]:
    """The pretended executor at a pseudo-terminal, whose name is given."""
    target = FakeTarget()
    console = target.start()
    master, slave = pty.openpty()
    os.set_blocking(master, True)
    with relayed(master, console._socket.fileno()):  # type: ignore[attr-defined]
        yield os.ttyname(slave)
    target.stop()
    os.close(master)
    os.close(slave)


@contextmanager
def running(argv: list[str], tools: Files, port: int | None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv, env=environment(tools), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 20
        while port is not None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < end, process.stdout and process.stdout.read1(4096)
            time.sleep(0.05)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # conserver has children
        process.wait(10)


def talk(where: str) -> None:
    """A hello, and requests of all sizes with all bytes in them."""
    console = open_console("machine one", where, 115200)
    try:
        link = Link(console, round_trip_s=0.05)
        assert link.hello(30.0).boot_id
        rng = random.Random(1)
        for size in (1, 255, 256, 1000, 3000, *(rng.randrange(1, 600) for _ in range(20))):
            assert link.run(rng.randbytes(size), 20.0)
        assert link.run(bytes(range(256)) * 4, 20.0)
    finally:
        console.close()


@pytest.mark.parametrize("kind", ["socket", "rfc2217"])
def test_ser2net(tools: Files, tmp_path: Path, kind: str) -> None:
    port = free_port()
    accepter = f"telnet(rfc2217),tcp,127.0.0.1,{port}" if kind == "rfc2217" else f"tcp,127.0.0.1,{port}"
    with serial_machine() as line:
        config = tmp_path / "ser2net.yaml"
        config.write_text(
            f"%YAML 1.1\n---\nconnection: &one\n  accepter: {accepter}\n"
            f"  connector: serialdev,{line},9600n81,local\n  options: {{kickolduser: true}}\n"
        )
        argv = [str(tools.program("ser2net")), "-n", "-d", "-u", "-c", str(config)]
        with running(argv, tools, port):
            talk(f"{kind}://127.0.0.1:{port}")


def test_conserver(tools: Files, tmp_path: Path) -> None:
    port, second = free_port(), free_port()
    with serial_machine() as line:
        (tmp_path / "conserver.cf").write_text(
            f"default full {{ rw *; }}\nconsole one {{ master localhost; type device; device {line}; baud 115200; "
            f"parity none; options !hupcl, !ixon, !ixoff; include full; logfile {tmp_path}/log; }}\n"
            f"access * {{ trusted 127.0.0.1; }}\n"
        )
        (tmp_path / "conserver.passwd").write_text("*any*:\n")
        files = ["-C", str(tmp_path / "conserver.cf"), "-P", str(tmp_path / "conserver.passwd")]
        ports = ["-p", str(port), "-b", str(second), "-M", "127.0.0.1"]
        argv = [str(tools.program("conserver")), *files, *ports]
        with running(argv, tools, port):
            libraries = environment(tools)["LD_LIBRARY_PATH"]
            client = (
                f"env LD_LIBRARY_PATH={libraries} {tools.program('console')} -M 127.0.0.1 -p {port} -e '^]^]' -f one"
            )
            talk(f"command:{client}")
