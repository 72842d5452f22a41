"""What kernels and hypervisors really print when they fail, and hosts that print it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from harness.hosts.connection import Ran

OOPS = """\
BUG: unable to handle page fault for address: ffffc90000a5b000
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
PGD 100000067 P4D 100000067 PUD 0
Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: 1 PID: 612 Comm: nsvm-host Not tainted 6.1.0-54-cloud-amd64 #1  Debian 6.1.192-2
RIP: 0010:nested_svm_vmexit+0x1f4/0x7e0 [kvm_amd]
Call Trace:
 <TASK>
 svm_handle_exit+0x66/0x1a0 [kvm_amd]
 </TASK>
---[ end trace 0000000000000000 ]---"""

WARN = """\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 612 at arch/x86/kvm/svm/nested.c:1163 nested_svm_vmexit+0x2b/0x7e0 [kvm_amd]
Modules linked in: kvm_amd kvm irqbypass"""

NEW_WARN = "WARNING: arch/x86/kvm/svm/nested.c:1163 at nested_svm_vmexit+0x2b/0x7e0 [kvm_amd], CPU#0: nsvm-host/612"

XEN_PANIC = """\
(XEN) d5v0 Unexpected nested vmexit: reason ffffffff
(XEN) ----[ Xen-4.17.5  x86_64  debug=n  Not tainted ]----
(XEN) CPU:    0
(XEN) RIP:    e008:[<ffff82d0402a1b2c>] nsvm_vmcb_prepare4vmexit+0x1c/0x200
(XEN) 
(XEN) ****************************************
(XEN) Panic on CPU 0:
(XEN) FATAL TRAP: vector = 6 (invalid opcode)
(XEN) ****************************************
(XEN) 
(XEN) Reboot in five seconds..."""

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e\x00\xff\r(XEN) Panic on CPU 0:\x85(XEN) FATAL TRAP: \u2028Oops: 0002 [#1]"


def escaped(text: str) -> str:
    r"""As /dev/kmsg shows a message: everything odd, and the backslash, as \xNN."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x5C else f"\\x{b:02x}" for b in data)


def kmsg(text: str, first: int, *, priority: int = 4, time_us: int = 10_000_000) -> bytes:
    """Lines as records of /dev/kmsg, numbered from `first`. Priority 12 is a warning of user space."""
    lines = text.split("\n")
    return b"".join(
        f"{priority},{first + n},{time_us + n},-;{escaped(line)}\n SUBSYSTEM=none\n".encode()
        for n, line in enumerate(lines)
    )


class FakeStream:
    """What the log follower reads. It ends with what is empty."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._put = self._asked = 0
        self._ended = False

    def settimeout(self, _timeout: float | None) -> None:
        pass

    def recv(self, _size: int) -> bytes:
        self._asked += 1
        return self._queue.get()

    def put(self, data: bytes) -> None:
        if not self._ended:  # else it would never be read
            self._put += 1
            self._ended = not data
            self._queue.put(data)

    def close(self) -> None:
        self.put(b"")

    def settled(self) -> bool:
        """Whether all has been read and dealt with: its reader waits again, or has come to the end."""
        return self._asked > self._put or (self._ended and self._asked == self._put)


class FakeHost:
    """A host whose answers are given: `answers` by the first words of a command that a script holds."""

    def __init__(self, *, last: str = "[    9.999999] older", boot_id: str = "b00t") -> None:
        self.last, self.boot_id = last, boot_id
        self.streams: list[FakeStream] = []
        self.answers: dict[str, bytes] = {"cat /proc/sys/kernel/tainted": b"0\n"}
        self.scripts: list[str] = []
        self.taint = 0
        self.broken: Exception | None = None
        self.refuses = b""  # what it says in the place of its log
        self.before: bytes = kmsg("older", 41, time_us=9_999_999)

    def open(self, _command: str) -> FakeStream:
        if self.broken:
            raise self.broken
        stream = FakeStream()
        self.streams.append(stream)
        if self.refuses:
            self.say(self.refuses)
            self.say(b"")
            return stream
        self.say(f"!boot {self.boot_id}\n!taint {self.taint}\n!up [10.00]\n!last {self.last}\n".encode() + self.before)
        return stream

    def say(self, data: bytes) -> None:
        self.streams[-1].put(data)

    def settle(self) -> None:
        """Waits until all that was said has been read, for which a real host's follower is given a moment only."""
        assert eventually(lambda: all(stream.settled() for stream in self.streams))

    def run(self, script: str, *, input: bytes = b"", deadline_s: float = 20.0) -> Ran:
        if self.broken:
            raise self.broken
        self.settle()
        self.scripts.append(script)
        line = script.partition("echo nsvm-")[2].split()
        if not line:
            return Ran(0, b"on 9\n", b"")
        out = b""
        for name, command in _commands(script):
            known = next((text for start, text in self.answers.items() if command.startswith(start)), b"")
            out += f"\nnsvm-{line[0]} {name}\n".encode() + known
        return Ran(0, out + f"\nnsvm-{line[0]} end\n".encode(), b"")


def _commands(script: str) -> list[tuple[str, str]]:
    lines = script.split("\n")
    return [
        (lines[n].split()[2], "\n".join(lines[n + 1 :])[2:])
        for n in range(len(lines))
        if lines[n].startswith("echo nsvm-") and not lines[n].endswith(" end")
    ]


class LocalStream:
    """A shell here, in the place of one behind SSH."""

    def __init__(self, command: str) -> None:
        self.process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def settimeout(self, _timeout: float | None) -> None:
        pass

    def recv(self, size: int) -> bytes:
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), size)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Whether it becomes true."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.005)
    return True
