"""L0s behind SSH, simulated ones in the main: how long until the first verdict, what a round trip costs, and the whole
suite there against the same on QEMU TCG.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from harness.bench import suite
from harness.bench.figure import Bench, Failed, Figure, NotMeasured, median, spread
from harness.bench.rates import DEADLINE_S, scenario_request
from harness.hosts.console import ChannelConsole
from harness.link.session import Session
from harness.machine.base import Console
from harness.scenario import places
from harness.scenario.steps import encode_list, mem_read
from harness.sim.error import SimError
from harness.sim.machine import OuterMachine
from harness.sim.state import PREFIX, State, build_command, built, load
from harness.targets.ssh_host import SshHost

GOAL_FIRST_S, GOAL_ECHO = 5.0, 2.0
SIMULATED = ("kvm", "xen")
RUN_ON = "qemu-tcg"
FIRST_TEST = "suites/core/test_tlb_asid.py::test_asid_runs"
ECHOES = 100
PLAIN_BYTES = 64
RESTORE_S = 30.0


def first(bench: Bench) -> list[Figure]:
    """From nothing to a verdict on a simulated host: by the harness alone, and by a pytest of one test."""
    figures = []
    for name in _simulated(bench):
        figures += [_first(bench, name), _first_test(bench, name)]
    return figures


def echo(bench: Bench) -> list[Figure]:
    """One scenario there and back, against as many bytes echoed by `cat` through the same connection; in turns."""
    return [figure for name in _hosts(bench) for figure in _echo(bench, name)]


def whole(bench: Bench) -> list[Figure]:
    """The whole suite with one worker and so on one boot of L0, against the same on QEMU TCG."""
    if not bench.slow:
        raise NotMeasured("takes many minutes; say --slow")
    name = _hosts(bench)[0]
    here, there = suite.run(bench, 1, target=RUN_ON), suite.run(bench, 1, target=name)
    ratio = there.took_s / here.took_s
    detail = f"{there.took_s:.0f} s for {there.tests} tests, {here.took_s:.0f} s on {RUN_ON}; 1 worker each"
    return [Figure(name=f"the whole suite on {name}, times {RUN_ON}", value=ratio, unit="x", detail=detail)]


def _simulated(bench: Bench) -> list[str]:
    """The target, if it is a simulated host; else those of the default names that are built. Raises NotMeasured."""
    if bench.target.startswith(PREFIX):
        _available(bench.target)
        return [bench.target]
    names = [name for name in SIMULATED if name in built()]
    if not names:
        raise NotMeasured(f"not built: run {build_command(SIMULATED[0])}")
    return [PREFIX + name for name in names]


def _available(name: str) -> State:
    """A simulated host that can run guests; raises NotMeasured."""
    try:
        state = load(name)
    except SimError as error:
        raise NotMeasured(str(error)) from None
    if not state.available:
        raise NotMeasured(f"{name} is not available: {state.reason}")
    return state


def _hosts(bench: Bench) -> list[str]:
    """The target, if it is a host; else the simulated ones."""
    return [bench.target] if bench.target.startswith(("host:", "ssh://")) else _simulated(bench)


def _first(bench: Bench, name: str) -> Figure:
    def once() -> float:
        started = time.monotonic()
        with _host(bench, name) as host:
            session = Session(host, use_lane=False)
            session.boot.link.run(scenario_request(bench, session), DEADLINE_S)
            return time.monotonic() - started

    took = [once() for _ in range(min(bench.rounds, 3))]
    return Figure(name=f"{name}: restore to the first scenario's answer", value=median(took), unit="s",
                  detail=spread(took, "s"))  # fmt: skip


def _first_test(bench: Bench, name: str) -> Figure:
    """As a person waits for it."""
    ran = suite.run(bench, 1, target=name, paths=[FIRST_TEST])
    if not ran.first_verdict_s:
        raise Failed(f"no verdict came of {FIRST_TEST}")
    return Figure(name=f"{name}: restore and first verdict", value=ran.first_verdict_s, unit="s", goal=GOAL_FIRST_S,
                  detail="from the start of pytest with one test")  # fmt: skip


def _echo(bench: Bench, name: str) -> list[Figure]:
    with _host(bench, name) as host:
        session = Session(host, use_lane=False)
        request = scenario_request(bench, session)
        boot, connection = session.boot, host.hold.connection
        assert connection is not None
        answer = boot.link.run(request, DEADLINE_S)
        console = ChannelConsole(connection.open("exec cat"))
        plain = encode_list([mem_read(places.L1_CODE, PLAIN_BYTES)])
        scenarios, echoes, plains = [], [], []
        try:
            for _ in range(ECHOES):
                plains.append(_timed(lambda: boot.link.run(plain, DEADLINE_S)))
                scenarios.append(_timed(lambda: boot.link.run(request, DEADLINE_S)))
                echoes.append(_timed(lambda: _there_and_back(console, request)))
        finally:
            console.close()
    ratio = median(scenarios) / median(echoes)
    sizes = f"{len(request)} bytes there, {len(answer)} back"
    return [
        Figure(name=f"{name}: one scenario's round trip", value=1000 * median(scenarios), unit="ms", detail=sizes),
        Figure(name=f"{name}: the request echoed by cat", value=1000 * median(echoes), unit="ms",
               detail="through the same connection"),
        Figure(name=f"{name}: a round trip, times the echo", value=ratio, unit="x", goal=GOAL_ECHO,
               detail="with what L0 takes for a VMRUN of its guest"),
        Figure(name=f"{name}: one without VMRUN, times the echo", value=median(plains) / median(echoes), unit="x",
               goal=GOAL_ECHO, detail=f"{len(plain)} bytes there, {PLAIN_BYTES} of memory back"),
    ]  # fmt: skip


def _timed(what: Callable[[], object]) -> float:
    started = time.monotonic()
    what()
    return time.monotonic() - started


def _there_and_back(console: Console, data: bytes) -> None:
    console.write(data, DEADLINE_S)
    left = len(data)
    deadline = time.monotonic() + DEADLINE_S
    while left > 0:
        left -= len(console.read(1.0))
        if time.monotonic() > deadline:
            raise Failed("the echo did not come back")


@contextmanager
def _host(bench: Bench, name: str) -> Iterator[SshHost]:
    """That host, and nothing of it left running or held."""
    if not name.startswith(PREFIX):
        with bench.target_for_now() as target:
            assert isinstance(target, SshHost)
            yield target
        return
    machine = OuterMachine(_available(name))
    try:
        spec = replace(machine.start(RESTORE_S), boot_deadline_s=RESTORE_S)
        host = SshHost(spec, bench.make_options(), name=name)
        try:
            yield host
        finally:
            host.close()
    finally:
        machine.stop()
