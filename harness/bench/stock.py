"""The reference machine against stock QEMU of the same version, in turns: what else this machine does hits both.

Stock is the same program with x-nsvm=off, or the one that --stock names. What our hooks cost in the first (a look at
x-nsvm) only the second shows: a QEMU built without them.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable, Mapping

from harness.bench import suite
from harness.bench.figure import Bench, Figure, NotMeasured, median, spread
from harness.bench.rates import vmrun_rate
from harness.link.link import Link
from harness.reference import store
from harness.sim.error import SimError
from harness.sim.machine import OuterMachine
from harness.sim.root import READY
from harness.sim.state import State, load
from harness.targets.qemu import CPU_MODEL, QemuTcg

GOAL_VMRUN, GOAL_BOOT, GOAL_LINUX, GOAL_SUITE = 1.2, 1.1, 1.02, 1.0
OFF = f"{CPU_MODEL},x-nsvm=off"
LINUX = "sim:kvm-on-reference"
LINUX_DEADLINE_S = 240.0
SUITE_ROUNDS_MAX = 3

Measure = Callable[[Mapping[str, object]], float]
"""Seconds; given the fields of TargetOptions that make the machine."""


def against(bench: Bench) -> list[Figure]:
    """VMRUN and #VMEXIT, and boot to hello by the CPU time that QEMU takes: how many times what stock QEMU does."""
    _of_reference(bench)
    return [
        _paired(bench, "VMRUN and #VMEXIT", GOAL_VMRUN, lambda made: vmrun_rate(bench, **made)),
        _paired(bench, "boot to hello, CPU time", GOAL_BOOT, lambda made: _hello(bench, made)),
    ]


def linux(bench: Bench) -> list[Figure]:
    """A boot of Linux, which records no branches, by the CPU time that QEMU takes."""
    _of_reference(bench)
    if not bench.slow:
        raise NotMeasured("boots Linux many times; say --slow")
    try:
        state = load(LINUX)
    except SimError as error:
        raise NotMeasured(str(error)) from None
    return [_paired(bench, "a boot of Linux, CPU time", GOAL_LINUX, lambda made: _linux(state, made))]


def whole(bench: Bench) -> list[Figure]:
    """The whole suite with two workers: for each test that was not skipped, as stock QEMU has fewer to run."""
    _of_reference(bench)
    if not bench.slow:
        raise NotMeasured("runs the suites several times; say --slow")
    own = bench.programs or ["--qemu", str(store.current().program)]
    there = dataclasses.replace(bench, programs=["--qemu", str(bench.stock)] if bench.stock else own)
    model = [] if bench.stock else ["--cpu", OFF]
    rounds = min(bench.rounds, SUITE_ROUNDS_MAX)
    both = [(suite.run(bench, 2), suite.run(there, 2, *model, target=QemuTcg.name)) for _ in range(rounds)]
    ours, stock = ([ran.took_s / ran.asked for ran in side] for side in zip(*both, strict=True))
    (here, other), count = both[-1], f"{rounds} times each"
    return [
        Figure(
            name="the whole suite, a test, times stock QEMU",
            value=median(ours) / median(stock),
            unit="x",
            goal=GOAL_SUITE,
            detail=f"{1000 * median(ours):.1f} ms against {1000 * median(stock):.1f} ms, {count}; "
            f"{here.took_s:.0f} s for {here.asked} tests, {other.took_s:.0f} s for {other.asked}",
        )
    ]


def _of_reference(bench: Bench) -> None:
    if bench.target != "reference":
        raise NotMeasured("of the reference machine only (--target reference)")
    if bench.stock is None:
        return
    with bench.target_for_now() as ours, bench.target_for_now(**_stock(bench)) as stock:
        versions = [target.version_tuple for target in (ours, stock) if isinstance(target, QemuTcg)]
    if versions[0] != versions[1]:
        texts = [".".join(map(str, version)) or "no QEMU" for version in versions]
        raise NotMeasured(f"--stock {bench.stock} is {texts[1]}, the reference machine is made of {texts[0]}")


def _stock(bench: Bench) -> dict[str, object]:
    """What makes a stock machine of the target's."""
    return {"cpu_model": CPU_MODEL, "qemu_path": str(bench.stock)} if bench.stock else {"cpu_model": OFF}


def _paired(bench: Bench, what: str, goal: float, measure: Measure) -> Figure:
    own: Mapping[str, object] = {"cpu_model": CPU_MODEL}
    stock = _stock(bench)
    for made in (own, stock):
        measure(made)  # reads the program from the disk
    both = [(measure(own), measure(stock)) for _ in range(bench.rounds)]
    ours, theirs = zip(*both, strict=True)
    return Figure(
        name=f"{what}, times stock QEMU",
        value=min(ours) / min(theirs),  # what else the machine does only adds
        unit="x",
        goal=goal,
        detail=f"{min(ours):.3g} s against {min(theirs):.3g} s; {spread(ours, 's')}, stock {spread(theirs, 's')}",
    )


def _hello(bench: Bench, made: Mapping[str, object]) -> float:
    before_s = _children_s()
    with bench.target_for_now(**made) as target:
        able = target.capabilities()
        Link(target.start(), round_trip_s=able.round_trip_s).hello(able.boot_deadline_s)
    return _children_s() - before_s


def _linux(state: State, made: Mapping[str, object]) -> float:
    at = state.argv.index("-accel")
    program = [str(made["qemu_path"])] if "qemu_path" in made else list(state.argv[:at])
    rest = list(state.argv[at:])
    rest[rest.index("-cpu") + 1] = str(made["cpu_model"])
    machine = OuterMachine(dataclasses.replace(state, argv=(*program, *rest)))
    before_s = _children_s()
    try:
        machine.launch(None, LINUX_DEADLINE_S)
        machine.await_console(READY, LINUX_DEADLINE_S)
    finally:
        machine.stop()
    return _children_s() - before_s


def _children_s() -> float:
    """CPU time of the processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
