"""What L1 saw: the machines of a target's workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.record import Run, TargetInfo
from harness.svm.cpuid import Cpuid

_FACTS = (
    ("vendor", "Vendor", 0),
    ("brand", "Processor brand", 0x8000_0002),
    ("family", "Family", 1),
    ("model", "Model", 1),
    ("stepping", "Stepping", 1),
    ("maxphyaddr", "Physical address bits", 0x8000_0008),
    ("svm_rev", "SVM revision", 0x8000_000A),
    ("nasid", "ASIDs (NASID)", 0x8000_000A),
    ("hypervisor", "Hypervisor leaf", 1),
)


@dataclass(slots=True)
class Machine:
    """What L1 saw: one entry for each distinct machine among a target's workers."""

    target: str
    workers: list[str]
    info: TargetInfo
    facts: dict[str, str]
    """vendor, brand, family, ... in the order to show; only those that CPUID gave."""
    commands: list[tuple[str, Sequence[str]]]
    """(worker, command line), one for each that differs."""


def cpuid_of(info: TargetInfo) -> Cpuid:
    """CPUID as the record holds it."""
    return Cpuid({(leaf, sub): (a, b, c, d) for leaf, sub, a, b, c, d in info.cpuid})


def machine_facts(info: TargetInfo) -> dict[str, str]:
    """What CPUID says of the machine, as text by title. What was not recorded is left out."""
    cpuid = cpuid_of(info)
    facts: dict[str, str] = {}
    for name, title, leaf in _FACTS:
        if (leaf, 0) in cpuid:
            value = getattr(cpuid, name)
            facts[title] = f"{value:X}h" if leaf == 1 and isinstance(value, int) else str(value).strip("\0 ") or "none"
    return facts


def machines_of(run: Run, target: str) -> list[Machine]:
    """One for each distinct machine of that target."""
    alike: dict[object, list[TargetInfo]] = {}
    for info in run.targets:
        if info.target == target:
            # The APIC id differs from CPU to CPU, OSXSAVE with who asks: neither makes another machine.
            stable = tuple(row[:3] if row[0] == 1 else row for row in info.cpuid if row[0] not in (0xB, 0x8000_001E))
            alike.setdefault((info.version, info.executor_build, info.edx, stable), []).append(info)
    machines = []
    for infos in alike.values():
        commands: dict[tuple[str, ...], str] = {}
        for info in infos:
            commands.setdefault(tuple(info.command), info.worker)
        machines.append(
            Machine(
                target=target,
                workers=[i.worker for i in infos],
                info=infos[0],
                facts=machine_facts(infos[0]),
                commands=[(worker, command) for command, worker in commands.items() if command],
            )
        )
    return machines
