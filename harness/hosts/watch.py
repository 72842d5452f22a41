"""L0's evidence over a connection: what it said since a mark, whether it failed, and what KVM did meanwhile.

The kernel's log is followed all the time, so that mark(), fatal() and noteworthy() cost no round trip. What cannot be
followed (Xen's log, the taint, the trace) is asked for in one round trip, when look() or evidence() is called.
All of it is untrusted text: bounded, escaped, and only what L0 itself wrote is judged.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Final, Protocol

from harness.hosts import tracepoints, xen_log
from harness.hosts.follower import Follower, Opens
from harness.hosts.kernel_log import LAST_WORDS
from harness.hosts.problems import Grade, grade_of
from harness.hosts.ring import Ring
from harness.hosts.sections import Sections
from harness.hosts.taint import became, describe
from harness.text import printable

LOOK_DEADLINE_S: Final = 5.0
SETTLE_S: Final = 0.3
NOTED_MAX: Final = 20
DIED_MAX: Final = 48 * 1024
EVIDENCE_MAX: Final = 60_000  # characters; the record keeps 64 KiB of a text


class RanLike(Protocol):
    """What a script on the host came to."""

    @property
    def status(self) -> int: ...
    @property
    def out(self) -> bytes: ...


class Host(Opens, Protocol):
    """What is asked of a connection (harness/hosts/connection.py)."""

    def run(self, script: str, /, *, input: bytes = b"", deadline_s: float) -> RanLike: ...


@dataclass(frozen=True)
class Mark:
    """A place in L0's log."""

    line: int


class Watch:
    """How one target watches its L0. `stalls_fatal=False` where the host is emulated: a stall may be the emulator's."""

    def __init__(self, kind: str, *, stalls_fatal: bool = True) -> None:
        self._kind = kind
        self._least = Grade.STALL if stalls_fatal else Grade.FATAL
        self._ring = Ring()
        self._follower = Follower(self._ring)
        self._xen = xen_log.XenLog()
        self._host: Host | None = None
        self._looking = threading.Lock()
        self._taint: int | None = None
        self._boot_id = ""
        self._reboots = 0  # of which the last words were asked for
        self._traced: str | None = None
        self._trace = ""

    def attach(self, host: Host) -> None:
        """Begins to watch over a connection, also over a new one after a loss. Raises what the connection raises."""
        self._host = host
        self._follower.start(host)
        if self._kind == "xen":  # what is in its ring before the first guest is nobody's doing
            threading.Thread(target=self.look, daemon=True, name="first look at Xen's log").start()

    def detach(self) -> None:
        """Ends the watching; what has come stays to be asked for. May be called again, also when the host is gone."""
        if self._traced is not None:
            with contextlib.suppress(Exception):
                self.trace_off()
        self._follower.stop()
        self._host = None

    def mark(self) -> Mark:
        """Now. Costs nothing."""
        return Mark(self._ring.position)

    def begin(self, trace: str | None = None) -> Mark:
        """Now, as a test begins; with the name of a running guest, KVM is traced until the next begin() without.

        Costs a round trip where the tracing changes, else nothing. Never raises: what cannot be traced is not.
        """
        with contextlib.suppress(Exception):
            if trace is None and self._traced is not None:
                self.trace_off()
            elif trace is not None:
                self.trace_on(trace)
        return self.mark()

    def fatal(self, since: Mark) -> str | None:
        """The first line that says that L0 failed; None if none came (ask look() before, if there is time)."""
        found = self._ring.found(since.line, self._least)
        return found[0].line if found else None

    def noteworthy(self, since: Mark) -> list[str]:
        """Lines worth telling that change no verdict: warnings, and stalls where they may be the emulator's."""
        return [item.line for item in self._ring.found(since.line) if item.grade < self._least][:NOTED_MAX]

    def trace_on(self, guest: str) -> str:
        """Begins to trace a running guest; gives `on N` or why not. One round trip. Raises what it raises."""
        if self._host is None or self._kind != "kvm":
            return "off: there is nothing to trace"
        self._traced, self._trace = guest, ""
        ran = self._host.run(tracepoints.on_script(guest), deadline_s=LOOK_DEADLINE_S)
        said = printable(ran.out, 200).strip() or "off: the host does not say why"
        if not said.startswith("on "):
            self._traced = None
        return said

    def trace_off(self) -> None:
        """Ends the tracing. Raises what the connection raises."""
        guest, self._traced, self._trace = self._traced, None, ""
        if guest is not None and self._host is not None:
            self._host.run(tracepoints.off_script(guest), deadline_s=LOOK_DEADLINE_S)

    def look(self) -> str | None:
        """Asks the host for what cannot be followed, in one round trip. Gives why it could not, and never raises."""
        with self._looking:
            return self._look()

    def _look(self) -> str | None:
        host = self._host
        if host is None:
            return "the host is not connected"
        asked = {"taint": "cat /proc/sys/kernel/tainted"}
        if self._kind == "xen":
            asked["xen"] = xen_log.READ
        self._follower.greeted.wait(SETTLE_S)
        reboots = self._follower.reboots
        if reboots > self._reboots:
            asked["died"] = LAST_WORDS
        if self._traced is not None:
            asked["trace"] = tracepoints.read_command(self._traced)
        sections = Sections(asked)
        try:
            ran = host.run(sections.script(), deadline_s=LOOK_DEADLINE_S)
        except Exception as error:  # of whatever kind the connection's errors are: evidence never fails a run
            return f"the host does not answer: {str(error)[:200] or type(error).__name__}"
        answers = sections.split(ran.out)
        self._follower.quiet(SETTLE_S)
        self._take_taint(answers.get("taint", b""))
        self._take_xen(answers.get("xen"))
        if "died" in answers:
            self._reboots = reboots
            for line in printable(answers["died"], DIED_MAX).strip().split("\n"):
                if line:
                    self._ring.append(f"(kept by firmware) {line}")
        if "trace" in answers:
            self._trace = tracepoints.tidy(printable(answers["trace"], tracepoints.TRACE_MAX))
        return None

    def evidence(self, since: Mark) -> str:
        """What there is since a mark, for the report: one round trip, at most 5 s; never raises, bounded, printable."""
        unseen = self.look()
        out = []
        if self._follower.why_not:
            out.append(f"The kernel's log is not followed: {self._follower.why_not}.")
        if unseen:
            out.append(f"Only what had come before: {unseen}.")
        if text := self._ring.since(since.line, EVIDENCE_MAX // 2):
            out += ["What L0 said:", text]
        if self._trace:
            out += ["What KVM did at the end:", _end(self._trace, EVIDENCE_MAX // 2 - 500)]
        return "\n".join(out)

    def _take_taint(self, answer: bytes) -> None:
        if self._follower.boot_id != self._boot_id:
            self._boot_id, self._taint = self._follower.boot_id, self._follower.taint
        with contextlib.suppress(ValueError):
            taint = int(answer[:40])
            if self._taint is not None and (new := became(self._taint, taint)):
                self._ring.append(f"--- the kernel is tainted now: {describe(new)} ---", new.grade)
            self._taint = taint

    def _take_xen(self, answer: bytes | None) -> None:
        if answer is None:
            return
        news, lost = self._xen.news(answer)
        if lost:
            self._ring.append("[... what Xen said in between may be lost: its ring was full ...]")
        for line in printable(news, xen_log.KEPT).split("\n") if news else ():
            if line:
                self._ring.append(line, grade_of(line) if line.startswith("(XEN)") else None)


def _end(text: str, limit: int) -> str:
    """The last whole lines that fit."""
    return text if len(text) <= limit else text[-limit:].partition("\n")[2]
