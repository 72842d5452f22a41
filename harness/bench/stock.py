"""The reference machine against stock QEMU of the same version: the same program with x-nsvm=off, in turns, so that
what else this machine does hits both. What our hooks cost there too (a look at x-nsvm) only a QEMU built without them
shows.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable

from harness.bench.figure import Bench, Figure, NotMeasured, spread
from harness.bench.rates import vmrun_rate
from harness.link.link import Link
from harness.sim.error import SimError
from harness.sim.machine import OuterMachine
from harness.sim.root import READY
from harness.sim.state import State, load
from harness.targets.qemu import CPU_MODEL

GOAL_VMRUN, GOAL_BOOT, GOAL_LINUX = 1.2, 1.1, 1.02
STOCK = f"{CPU_MODEL},x-nsvm=off"
LINUX = "sim:kvm-on-reference"
LINUX_DEADLINE_S = 240.0


def against(bench: Bench) -> list[Figure]:
    """VMRUN and #VMEXIT, and boot to hello: how many times what stock QEMU takes."""
    if bench.target != "reference":
        raise NotMeasured("of the reference machine only (--target reference)")
    return [
        *_paired(bench, "VMRUN and #VMEXIT", GOAL_VMRUN, lambda model: vmrun_rate(bench, cpu_model=model)),
        *_paired(bench, "boot to hello", GOAL_BOOT, lambda model: _hello(bench, model)),
    ]


def linux(bench: Bench) -> list[Figure]:
    """A boot of Linux, which records no branches, by the CPU time that QEMU takes."""
    if bench.target != "reference":
        raise NotMeasured("of the reference machine only (--target reference)")
    if not bench.slow:
        raise NotMeasured("boots Linux many times; say --slow")
    try:
        state = load(LINUX)
    except SimError as error:
        raise NotMeasured(str(error)) from None
    return _paired(bench, "a boot of Linux, CPU time", GOAL_LINUX, lambda model: _linux(state, model))


def _paired(bench: Bench, what: str, goal: float, measure: Callable[[str], float]) -> list[Figure]:
    measure(CPU_MODEL)  # reads the program from the disk
    both = [(measure(CPU_MODEL), measure(STOCK)) for _ in range(bench.rounds)]
    ours, stock = zip(*both, strict=True)
    return [
        Figure(
            name=f"{what}, times stock QEMU",
            value=min(ours) / min(stock),  # what else the machine does only adds
            unit="x",
            goal=goal,
            detail=f"{min(ours):.3g} s against {min(stock):.3g} s; {spread(ours, 's')}",
        )
    ]


def _hello(bench: Bench, model: str) -> float:
    with bench.target_for_now(cpu_model=model) as target:
        able = target.capabilities()
        started = time.monotonic()
        Link(target.start(), round_trip_s=able.round_trip_s).hello(able.boot_deadline_s)
        return time.monotonic() - started


def _linux(state: State, model: str) -> float:
    place = state.argv.index("-cpu") + 1
    machine = OuterMachine(dataclasses.replace(state, argv=(*state.argv[:place], model, *state.argv[place + 1 :])))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        machine.launch(None, LINUX_DEADLINE_S)
        machine.await_console(READY, LINUX_DEADLINE_S)
    finally:
        machine.stop()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
