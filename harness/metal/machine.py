"""One bare machine, driven: leased, booted into the executor, power-cycled when it hangs, given back with its own OS.

A boot is ours by its boot id: an executor that still answers with the id of the boot before was not power-cycled,
whatever the power driver says.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.lab import LabError
from harness.hosts.lab import find as find_host
from harness.link.frames import SEQ_MAX, Message, MessageType, SerialDecoder, encode_serial
from harness.link.hello import Hello
from harness.machine.base import Console, ConsoleClosed, ConsoleTimeout
from harness.metal import boot as boots
from harness.metal import power as powers
from harness.metal.boot import Load
from harness.metal.consoles import open_console
from harness.metal.error import MetalError
from harness.metal.lease import Lease
from harness.metal.looks import Looks
from harness.metal.spec import MetalSpec

REOPEN_S = 30.0
SSH_PAUSE_S = 2.0
DRAIN_S = 0.2
WRITE_S = 5.0
ANSWER_S = 2.0
STORY_MAX = 100
REBOOT = "systemctl reboot || reboot"


class Machine:
    """One machine. Errors are MetalErrors."""

    def __init__(
        self,
        spec: MetalSpec,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.spec = spec
        self.power = powers.from_table(f"{spec.what}: power", spec.power)
        self.boot = boots.from_table(f"{spec.what}: boot", spec.boot)
        if self.boot.needs_os and not spec.host:
            raise MetalError(f'{spec.what}: boot goes by its own OS: say host = "NAME" of a [host.NAME]')
        self.story: list[str] = []
        self.looks = Looks(spec.own_os)
        self.console: WatchedConsole | None = None
        self._lease = Lease(spec.name)
        self._host: Connection | None = None
        self._clock, self._sleep = clock, sleep
        self._armed = False  # whether boot has something to take back
        self._ours = False  # whether what runs on it, or boots next, is ours
        self._healthy = False  # whether the executor of the last boot may still answer
        self._first = True  # whether what runs on it can be its own OS

    def start(self, load: Load) -> WatchedConsole:
        """Boots the executor afresh. Does not wait for it."""
        self.claim()
        assert self.console is not None
        if self.boot.needs_os:
            self._arm_by_own_os(load)
        else:
            self._armed = True
            self.boot.arm(load, None)
            self._ours = True
            self._restart(self.console.begin)
        return self.console

    def claim(self) -> None:
        """Takes the machine and opens its console. Raises MetalError."""
        self._lease.take()
        if self.console is None or self.console.closed:
            self._open()

    def lost(self) -> None:
        """What ran does not answer any more: the next start must cut the power."""
        self._healthy = False

    def answered(self) -> None:
        """The executor answers: it can be asked to reset the machine."""
        self._healthy = True

    def close(self) -> None:
        """Gives the machine back with its own OS up, as far as it can be reached; may be called again."""
        try:
            if self._armed or self._ours:
                self._give_back()
        except (MetalError, HostError, ConsoleClosed, OSError) as error:
            self._tell(f"not left with its own OS: {error}")
        finally:
            self._hang_up()
            if self.console is not None:
                self.console.close()
                self.console = None
            self._lease.release()

    def own_os_answers(self, deadline_s: float) -> bool:
        """Waits for its own OS: over SSH, or by what it writes on the console."""
        end = self._clock() + deadline_s
        while True:
            if self.spec.host:
                with contextlib.suppress(HostError):
                    self._connect()
                    return True
                self._drain(SSH_PAUSE_S)
            else:
                self._drain(1.0)
                if self.looks.own_os_is_up:
                    return True
            if self._clock() >= end:
                return False

    def _arm_by_own_os(self, load: Load) -> None:
        restarted = self._ours
        assert self.console is not None
        if restarted:
            self._restart(self.console.leave)
            self._ours = False
        host = self._own_os(self.spec.grace_s if restarted else 0)
        self._armed = True
        by_itself = self.boot.arm(load, host)
        self._ours = True
        self._hang_up()  # the connection ends with the kernel
        if by_itself:
            self._drain(DRAIN_S)
            self.console.begin()
        else:
            self._cycle(self.console.begin)

    def _give_back(self) -> None:
        ours, armed = self._ours, self._armed
        self._ours = self._armed = False
        if armed and not self.boot.needs_os:
            self.boot.disarm(None)
        if ours:
            if self.console is None or self.console.closed:
                self._open()
            assert self.console is not None
            self._restart(self.console.leave)
            if not self.own_os_answers(self.spec.grace_s):
                raise MetalError(
                    f"{self.spec.what} does not come up within {self.spec.grace_s:.0f} s: "
                    f"{self.looks.in_words(self.spec.baud)}"
                )
            self._tell("left with its own OS up")
        if armed and self.boot.needs_os:
            self.boot.disarm(self._connect())

    def _restart(self, mark: Callable[[], None]) -> None:
        """Another boot: the executor resets the machine if it can, else the power is cut. `mark` is called where what
        comes is the new boot's.
        """
        self._drain(0)
        if self._healthy and self.console is not None:
            self._healthy = False
            reboot = Message(MessageType.REBOOT, random.randrange(1, SEQ_MAX), b"")
            with contextlib.suppress(ConsoleClosed, ConsoleTimeout):
                before = self.console.answers
                self.console.write(encode_serial(reboot), WRITE_S)
                end = self._clock() + ANSWER_S
                while self.console.answers == before and self._clock() < end:
                    self.console.read(DRAIN_S)
                if self.console.answers > before:
                    mark()
                    return
        if self.spec.host and self._reboot_own_os():
            mark()
            return
        self._tell("power cycle")
        self._cycle(mark)

    def _cycle(self, mark: Callable[[], None]) -> None:
        def while_off() -> None:
            self._drain(DRAIN_S)
            mark()

        powers.cycle(self.power, self.spec.off_s, while_off=while_off, clock=self._clock, sleep=self._sleep)

    def _reboot_own_os(self) -> bool:
        """A running OS is not cut off: it is asked to reboot. False where it does not run."""
        if self._first is False:
            return False
        self._first = False
        try:
            self._connect().run(f"sync; (sleep 1; {REBOOT}) >/dev/null 2>&1 </dev/null &")
        except HostError:
            return False
        self._hang_up()
        self._drain(DRAIN_S)
        self._tell("its own OS was asked to reboot")
        return True

    def _own_os(self, wait_s: float) -> Connection:
        """A connection to its own OS; where it does not come up, the power is cycled once."""
        if not self.own_os_answers(wait_s):
            self._tell("its own OS does not answer: power cycle")
            assert self.console is not None
            self._cycle(self.console.leave)
            if not self.own_os_answers(self.spec.grace_s):
                raise MetalError(
                    f"{self.spec.what}: its own OS does not answer within {self.spec.grace_s:.0f} s of a power cycle: "
                    f"{self.looks.in_words(self.spec.baud)}"
                )
        return self._connect()

    def _connect(self) -> Connection:
        if self._host is None or not self._host.alive():
            self._hang_up()
            try:
                self._host = Connection(find_host(self.spec.host))
            except LabError as error:
                raise MetalError(str(error)) from None
        return self._host

    def _hang_up(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None

    def _open(self) -> None:
        """Opens the console; a server that has just dropped us is given a while to take us again."""
        reopening = self.console is not None
        if self.console is not None:
            self.console.close()
        end = self._clock() + (REOPEN_S if reopening else 0)
        seen = self.console.seen if self.console is not None else set()
        while True:
            try:
                inner = open_console(self.spec.what, self.spec.console, self.spec.baud)
                self.console = WatchedConsole(inner, self.looks, seen)
                return
            except MetalError:
                if self._clock() >= end:
                    raise
            self._sleep(1.0)

    def _drain(self, for_s: float) -> None:
        """Reads what the machine says meanwhile, so that nothing of it is taken for what comes later."""
        end = self._clock() + for_s
        while True:
            if self.console is None or self.console.closed:
                self._sleep(max(end - self._clock(), 0))
                return
            try:
                came = self.console.read(max(min(end - self._clock(), DRAIN_S), 0))
            except ConsoleClosed:
                continue
            if not came and self._clock() >= end:
                return

    def _tell(self, line: str) -> None:
        self.story.append(f"{self.spec.what}: {line}")
        del self.story[:-STORY_MAX]


class WatchedConsole:
    """The machine's console. It hears which boots say hello, and closes where a boot of before does so again."""

    def __init__(self, inner: Console, looks: Looks, seen: set[int]) -> None:
        self._inner = inner
        self._looks = looks
        self._decoder = SerialDecoder()
        self.seen = seen  # the ids of earlier boots
        self.now = 0  # the id of the boot that runs
        self.answers = 0
        self.reason = ""
        self._booting = False

    @property
    def closed(self) -> bool:
        """Whether nothing comes any more."""
        return bool(self.reason)

    def begin(self) -> None:
        """A new boot is under way: what said hello before must not do so again."""
        if self.now:
            self.seen.add(self.now)
        self.now, self._booting = 0, True
        self._looks.forget()
        self._decoder = SerialDecoder()

    def leave(self) -> None:
        """What comes from now on is the machine's own business."""
        if self.now:
            self.seen.add(self.now)
        self.now, self._booting = 0, False
        self._looks.forget()

    def read(self, timeout_s: float) -> bytes:
        """See Console."""
        if self.closed:
            raise ConsoleClosed(self.reason)
        try:
            data = self._inner.read(timeout_s)
        except ConsoleClosed as error:
            self.reason = f"the console was cut: {error}"
            raise ConsoleClosed(self.reason) from error
        if data:
            self._hear(data)
        return data

    def write(self, data: bytes, deadline_s: float) -> None:
        """See Console."""
        if self.closed:
            raise ConsoleClosed(self.reason)
        try:
            self._inner.write(data, deadline_s)
        except ConsoleClosed as error:
            self.reason = f"the console was cut: {error}"
            raise ConsoleClosed(self.reason) from error

    def close(self) -> None:
        """See Console."""
        self.reason = self.reason or "closed"
        self._inner.close()

    def _hear(self, data: bytes) -> None:
        if not self.now:
            self._looks.add(data)
            if self._booting and self._looks.own_os_is_up:
                self._end("its own operating system came up instead of the executor")
        for item in self._decoder.feed(data):
            if not isinstance(item, Message):
                continue
            self.answers += item.type in (MessageType.ANSWER, MessageType.HELLO)
            if item.type == MessageType.HELLO:
                with contextlib.suppress(ValueError):
                    self._greet(Hello.parse(item.body).boot_id)

    def _greet(self, boot_id: int) -> None:
        if self._booting and boot_id in self.seen:
            self._end("the same boot as before still answers: the restart or the power cycle had no effect")
        if self._booting:
            self.now, self._booting = boot_id, False

    def _end(self, reason: str) -> None:
        self.reason = reason
        raise ConsoleClosed(reason)


def load_of(spec: MetalSpec, executor: Path, bundle: Path | None) -> Load:
    """What is booted there."""
    words = [f"uart={spec.uart}" if spec.uart else "", f"baud={spec.baud}" if spec.baud != 115200 else ""]
    words.append(f"quiet={spec.quiet_s}" if spec.quiet_s else "")
    return Load(executor, " ".join(word for word in words if word), bundle)
