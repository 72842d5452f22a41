"""Figures about the harness itself, measured in one run. A measure is a function `Bench -> list[Figure]`;
MEASURES names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.bench import boot, rates, remote, stock, suite, turns
from harness.bench.figure import Bench, Failed, Figure, NotMeasured

Measure = Callable[[Bench], list[Figure]]

MEASURES: Mapping[str, Measure] = {
    "boot": boot.measure,
    "uart": rates.uart,
    "memory": rates.memory,
    "bundle": rates.bundle,
    "vmrun": rates.vmrun_loop,
    "stock": stock.against,
    "stock-linux": stock.linux,
    "stock-suite": stock.whole,
    "suite": suite.workers,
    "one-test": turns.one_test,
    "against": turns.against,
    "slow-line": suite.slow_line,
    "sim-first": remote.first,
    "ssh-echo": remote.echo,
    "sim-suite": remote.whole,
}
"""In the order in which they run."""

__all__ = ["MEASURES", "Bench", "Failed", "Figure", "Measure", "NotMeasured"]
