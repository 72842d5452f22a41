"""`nsvm doctor --target metal:NAME`: each of a machine's three paths, and what mends it."""

from __future__ import annotations

from harness.cli import machine
from harness.cli.console import HarnessError, UserError
from harness.cli.doctor_host import Report, show
from harness.hosts.cpu_bits import of_edx
from harness.hosts.finding import HostFinding
from harness.machine.base import TargetError
from harness.metal.doctor import findings
from harness.metal.spec import find


def run(target: str, programs: machine.Programs, *, boot: bool, as_json: bool) -> int:
    """Looks, boots the executor there if nothing is missing, and prints what is found. The exit status."""
    report = Report(target)
    try:
        report.found += findings(find(target.removeprefix("metal:")))
    except TargetError as error:
        raise UserError(str(error)) from None
    if boot and report.ready:
        report.found.append(_boot(report, programs))
    elif boot:
        report.found.append(HostFinding(None, "L1", "nothing was booted: first the above"))
    return show(report, as_json=as_json)


def _boot(report: Report, programs: machine.Programs) -> HostFinding:
    """Boots the executor once, and gives the machine back with its own OS."""
    try:
        machine.build_executor()
        with machine.running(report.target, programs) as now:
            took_s, cpuid = now.start_s, now.hello.cpuid
    except (HarnessError, UserError) as error:
        return HostFinding(False, "L1", f"the executor did not come up: {error}")
    report.edx, report.offered = cpuid.svm_bits, of_edx(cpuid.svm_bits)
    if not cpuid.svm:
        return HostFinding(
            False, "L1", "the executor runs, and CPUID has no SVM", "switch SVM on in the firmware's setup"
        )
    bits = " ".join(report.offered) or "no bit"
    return HostFinding(True, "L1", f"up in {took_s:.1f} s; Fn8000_000A EDX {cpuid.svm_bits:08X}: {bits}")
