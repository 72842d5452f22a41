"""A real OpenSSH server on loopback, run by the present user with keys of its own, for one test."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from harness.hosts.spec import HostSpec

START_S = 20.0


class Sshd:
    """Listens on 127.0.0.1; logs into `folder`. Its clients' sessions are its children's children."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if found is None or shutil.which("ssh-keygen") is None:
            pytest.fail("there is no OpenSSH server here: apt-get install openssh-server openssh-client")
        self.program = found
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.user_key = self.make_key("user")
        self.host_key = self.make_key("host")
        self.known_hosts = folder / "known_hosts"
        shutil.copy(self.user_key.with_suffix(".pub"), folder / "authorized_keys")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself in, when it is root's
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.trust()

    def make_key(self, name: str) -> Path:
        """A new key pair's private half."""
        path = self.folder / name
        for old in (path, path.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
        return path

    def trust(self) -> None:
        """Writes the present host key into known_hosts."""
        kind, key = self.host_key.with_suffix(".pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def start(self, *options: str) -> None:
        """Starts it and waits until it listens."""
        config = self.folder / "sshd_config"
        config.write_text(
            "".join(f"{option}\n" for option in options)  # the first word counts
            + f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.host_key}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nMaxStartups 100\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel ERROR\n"
            "SetEnv SHLVL=3\n"  # bash then leaves out ~/.bashrc, which may be slow
        )
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return
            time.sleep(0.02)
        pytest.fail(f"sshd does not start: {(self.folder / 'log').read_text(errors='replace')[-2000:]}")

    def sessions(self) -> list[int]:
        """The processes that serve connections, oldest first."""
        assert self.process is not None
        return [pid for pid in descendants(self.process.pid) if name(pid).startswith("sshd")]

    def cut(self) -> None:
        """Kills the processes that serve connections, and nothing else."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self, *, thaw: bool = False) -> None:
        """Has them stop where they are: TCP still acknowledges, nobody answers."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT if thaw else signal.SIGSTOP)

    def stop(self) -> None:
        """Ends it, with all that it serves."""
        if self.process is None:
            return
        below = descendants(self.process.pid)
        for pid in [self.process.pid, *reversed(below)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)
        self.process = None

    def spec(self, **changes: object) -> HostSpec:
        """The host as a lab file has it."""
        values: dict[str, object] = {
            "name": "lab",
            "address": "127.0.0.1",
            "port": self.port,
            "identity_files": (self.user_key,),
            "known_hosts": (self.known_hosts,),
            "use_agent": False,
            "use_ssh_config": False,
            "workdir": str(self.folder / "work"),
            "connect_deadline_s": 20.0,
            "boot_deadline_s": 20.0,
            "grace_s": 5.0,
        }
        return HostSpec(**{**values, **changes})  # type: ignore[arg-type]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now, nor is given unasked: those that the kernel gives are from 32768 on."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def command(pid: int) -> str:
    """A process' command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def name(pid: int) -> str:
    """A process' name; its command line may have a folder's in it."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """The processes below a process, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    left = [pid]
    while left:
        below = sorted(parents.get(left.pop(0), []))
        found += below
        left += below
    return found
