"""`nsvm doctor --target`: what a host lacks, and what its L0 offers L1."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field

from harness.cli import machine
from harness.cli.console import EXIT_OK, EXIT_USAGE, HarnessError, UserError
from harness.hosts.cpu_bits import hardware_bits, of_edx
from harness.hosts.doctor import HostFinding, findings, ready
from harness.hosts.errors import HostError
from harness.hosts.facts import ask
from harness.hosts.ssh_config import resolve
from harness.machine.base import TargetError
from harness.sim.error import SimError
from harness.targets.reach import reached
from harness.text import printable


@dataclass
class Report:
    """What was found of one host. `edx` is None if no guest was booted."""

    target: str
    found: list[HostFinding] = field(default_factory=list)
    has: list[str] = field(default_factory=list)
    offered: list[str] = field(default_factory=list)
    edx: int | None = None

    @property
    def ready(self) -> bool:
        """Whether a run can begin."""
        return ready(self.found)


def examine(target: str, programs: machine.Programs, *, boot: bool) -> Report:
    """Connects, asks, and boots the executor there if nothing else is missing."""
    report = Report(target)
    try:
        with reached(target) as (connection, spec):
            place = resolve(spec)
            where = f"{place.user}@{place.address} port {place.port}, whose key is known"
            report.found.append(HostFinding(True, "connection", where))
            facts = ask(connection, spec)
    except (TargetError, SimError) as error:
        report.found.append(HostFinding(False, "connection", str(error), _last(error.log)))
        return report
    report.found += findings(facts, spec)
    report.has = hardware_bits(facts)
    if boot and report.ready:
        report.found += _boot(report, programs)
    elif boot:
        report.found.append(HostFinding(None, "L1", "no guest was started: first the above"))
    return report


def _boot(report: Report, programs: machine.Programs) -> list[HostFinding]:
    try:
        machine.build_executor()
        machine.build_host_program()
    except (HarnessError, UserError) as error:
        return [HostFinding(None, "L1", f"no guest was started: {error}")]
    try:
        with machine.running(report.target, programs) as now:
            took_s, cpuid = now.start_s, now.hello.cpuid
    except (HarnessError, UserError, HostError) as error:
        return [HostFinding(False, "L1", f"a guest was started, and did not come up: {error}")]
    report.edx = cpuid.svm_bits
    report.offered = of_edx(cpuid.svm_bits)
    if not cpuid.svm:
        return [HostFinding(False, "L1", "a guest comes up, and is not offered SVM", "switch nested virtualization on")]
    told = f"up in {took_s:.1f} s; Fn8000_000A EDX {report.edx:08X}: {' '.join(report.offered) or 'no bit'}"
    found = [HostFinding(True, "L1", told)]
    kept = [name for name in report.has if name not in report.offered]
    if kept:
        found.append(
            HostFinding(None, "not offered", f"{' '.join(kept)}: the hardware has them, L0 does not offer them to L1")
        )
    made = [name for name in report.offered if report.has and name not in report.has]
    if made:
        found.append(
            HostFinding(None, "offered too", f"{' '.join(made)}: L0 offers them, the hardware has not shown them")
        )
    return found


def run(target: str, programs: machine.Programs, *, boot: bool, as_json: bool) -> int:
    """Prints what is found. The exit status."""
    return show(examine(target, programs, boot=boot), as_json=as_json)


def show(report: Report, *, as_json: bool) -> int:
    """Prints a report. The exit status."""
    if as_json:
        json.dump(as_object(report), sys.stdout, indent=1)
        print()
    else:
        print(f"{report.target}: {'ready' if report.ready else 'NOT ready'}")
        for finding in report.found:
            print(f"{finding.mark:8} {finding.what:12} {_shown(finding.detail)}")
            if finding.mend and finding.ok is not True:
                print(f"{'':8} {'':12} -> {_shown(finding.mend)}")
    return EXIT_OK if report.ready else EXIT_USAGE


def as_object(report: Report) -> dict[str, object]:
    """For JSON."""
    return {
        "target": report.target,
        "ready": report.ready,
        "findings": [
            {"ok": f.ok, "what": f.what, "detail": _shown(f.detail), "mend": _shown(f.mend)} for f in report.found
        ],
        "hardware_bits": report.has,
        "offered_bits": report.offered,
        "edx": report.edx,
    }


def _shown(text: str) -> str:
    """One line, and nothing in it acts on a terminal."""
    return printable(text.encode("ascii", "backslashreplace"), 600).replace("\n", " ")


def _last(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""
