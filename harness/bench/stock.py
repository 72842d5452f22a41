"""The reference machine against stock QEMU of the same version: the same program with x-nsvm=off, in turns, so that
what else this machine does hits both. What our hooks cost there too (a look at x-nsvm) only a QEMU built without them
shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.bench.figure import Bench, Figure, NotMeasured, median, spread
from harness.bench.rates import vmrun_rate
from harness.link.link import Link
from harness.targets.qemu import CPU_MODEL

GOAL_VMRUN, GOAL_BOOT = 1.2, 1.1
STOCK = f"{CPU_MODEL},x-nsvm=off"


def against(bench: Bench) -> list[Figure]:
    """VMRUN and #VMEXIT, and boot to hello: how many times what stock QEMU takes."""
    if bench.target != "reference":
        raise NotMeasured("of the reference machine only (--target reference)")
    return [
        *_paired(bench, "VMRUN and #VMEXIT", GOAL_VMRUN, lambda model: vmrun_rate(bench, cpu_model=model)),
        *_paired(bench, "boot to hello", GOAL_BOOT, lambda model: _hello(bench, model)),
    ]


def _paired(bench: Bench, what: str, goal: float, measure: Callable[[str], float]) -> list[Figure]:
    measure(CPU_MODEL)  # reads the program from the disk
    both = [(measure(CPU_MODEL), measure(STOCK)) for _ in range(bench.rounds)]
    ours, stock = zip(*both, strict=True)
    return [
        Figure(
            name=f"{what}, times stock QEMU",
            value=median(ours) / median(stock),
            unit="x",
            goal=goal,
            detail=f"{median(ours):.3g} s against {median(stock):.3g} s; {spread(ours, 's')}",
        )
    ]


def _hello(bench: Bench, model: str) -> float:
    with bench.target_for_now(cpu_model=model) as target:
        able = target.capabilities()
        started = time.monotonic()
        Link(target.start(), round_trip_s=able.round_trip_s).hello(able.boot_deadline_s)
        return time.monotonic() - started
