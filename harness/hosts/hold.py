"""A process' hold on a host: its connection, its share of the lease, its files there; brought back after a loss.

All targets of a process on the same host share one, so that a new target does not log in again.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from pathlib import Path

from harness.hosts import tracepoints
from harness.hosts.cleanup import end_guests
from harness.hosts.connection import Connection
from harness.hosts.errors import HostError
from harness.hosts.l0 import GUEST_PREFIX, L0
from harness.hosts.lease import Lease, run_id
from harness.hosts.power import recover
from harness.hosts.spec import HostSpec
from harness.hosts.watch import Watch

LAST_TRY_S = 5.0


class Hold:
    """Nothing happens before it is needed. Errors are HostErrors."""

    def __init__(self, spec: HostSpec, worker: str, run: str) -> None:
        self.spec = spec
        self.worker = worker
        self.run = run
        self.boot_id = ""
        self.reboots = 0  # that happened while we had it
        self.story: list[str] = []  # what happened to the connection, a line each
        self._connection: Connection | None = None
        self._lease: Lease | None = None
        self._files_at: Connection | None = None
        self._given_up = False
        self._l0: L0 | None = None
        self.watch: Watch | None = None  # from the first ready() on
        self.untouched = False  # whether no guest of ours can be there: a machine restored from before the first one
        self.stalls_fatal = True  # not where the host is an emulated machine

    @property
    def guest_prefix(self) -> str:
        """What the names of this run's guests begin with."""
        return f"{GUEST_PREFIX}{self.run}-"

    @property
    def guest_name(self) -> str:
        """The name of this worker's guest."""
        return f"{self.guest_prefix}{self.worker}"

    @property
    def connection(self) -> Connection | None:
        """The connection as it is, dead or alive."""
        return self._connection

    def look(self) -> Connection:
        """A connection, without taking the host."""
        if self._connection is not None and self._connection.alive():
            return self._connection
        if self._connection is None or self._given_up:
            self._use(Connection(self.spec))
        else:
            self._bring_back(self._connection)
        assert self._connection is not None
        return self._connection

    def ready(self, l0: L0) -> Connection:
        """A connection to the host, which is ours, and has all files that guests need."""
        connection = self.look()
        self._l0 = l0
        if self._lease is None or self._lease.host is not connection or not self._lease.held:
            self._take(connection, l0)
        if self._files_at is not connection:
            for name, content in l0.files().items():
                try:
                    data = content.read_bytes() if isinstance(content, Path) else content
                except OSError as error:
                    raise HostError(f"{content!s} cannot be read: {error.strerror}; is it built?") from None
                connection.upload(data, f"{self.spec.workdir}/{name}", 0o700)
            if self.watch is None:
                self.watch = Watch(l0.kind, stalls_fatal=self.stalls_fatal)
            self.watch.attach(connection)
            self._files_at = connection
        return connection

    def close(self) -> None:
        """Leaves the host as it was, as far as it can be reached, and disconnects; may be called again."""
        connection, lease, l0 = self._connection, self._lease, self._l0
        self._connection = self._lease = self._files_at = None
        if connection is None:
            return
        if self.watch is not None:
            self.watch.detach()
        try:
            if lease is not None and l0 is not None and (connection.alive() or lease.boot_id):
                if not connection.alive():
                    connection.close()
                    connection = Connection(self.spec, deadline_s=LAST_TRY_S)
                    lease = Lease(connection, self.worker, self.run)
                    lease.acquire()
                here = connection
                lease.release(lambda: end_guests(here, l0, self.guest_name))
        except (HostError, RuntimeError) as error:  # RuntimeError: no thread can be started when Python ends
            self.story.append(f"left as it is, the next run cleans up: {error}")
        finally:
            connection.close()

    def _take(self, connection: Connection, l0: L0) -> None:
        if self._lease is not None and self._lease.host is connection and self._lease.boot_id:
            # As for a run that was stopped for so long that another took over.
            self.story.append(f"host {self.spec.name}: it is no longer ours, the lease is gone")
        self._files_at = None  # whoever had the host meanwhile has emptied the folder
        # Known before it is ours, as Ctrl-C may come at any time.
        lease = self._lease = Lease(connection, self.worker, self.run)
        lease.acquire(lambda: self._clean_others(connection, l0))
        if self.boot_id not in ("", lease.boot_id):
            self.reboots += 1
            self.story.append(f"host {self.spec.name} has rebooted")
        self.boot_id = lease.boot_id
        if lease.took_over:
            self.story.append(f"host {self.spec.name}: cleaned up what a dead run had left (run {lease.took_over})")

    def _use(self, connection: Connection) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = connection
        self._given_up = False

    def _bring_back(self, lost: Connection) -> None:
        self.story.append(f"host {self.spec.name}: the SSH connection was lost: {lost.why_lost()}")
        lost.close()
        try:
            back = recover(self.spec, tell=self.story.append)
        except HostError as error:
            self._given_up = True
            self.story.append(str(error))
            raise
        self.story.append(back.story)
        if back.output.strip():
            self.story.append(back.output.strip())
        self._use(back.connection)

    def _clean_others(self, connection: Connection, l0: L0) -> None:
        """Ends guests of runs that are gone; other workers of this run may have theirs already."""
        for name in end_guests(connection, l0, besides=self.guest_prefix):
            self.story.append(f"host {self.spec.name}: ended the guest {name}, which a dead run had left")
        if l0.kind == "kvm":
            connection.run(tracepoints.cleanup_script())


_holds: dict[tuple[HostSpec, str, str], Hold] = {}


def hold_of(spec: HostSpec, worker: str | None = None, run: str | None = None) -> Hold:
    """This process' hold on that host."""
    key = (spec, worker or os.environ.get("PYTEST_XDIST_WORKER") or "main", run or run_id())
    if key not in _holds:
        _holds[key] = Hold(*key)
    return _holds[key]


@atexit.register
def close_all() -> None:
    """Ends all holds of the process."""
    for key in list(_holds):
        with contextlib.suppress(Exception):
            _holds.pop(key).close()
