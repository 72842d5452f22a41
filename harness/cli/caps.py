"""`nsvm caps`: what SVM a target offers L1: every bit of CPUID Fn8000_000A, and the SVM MSRs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from harness.cli import machine
from harness.cli.console import EXIT_OK, HarnessError
from harness.scenario import steps
from harness.svm.cpuid import SVM_BITS, Cpuid
from harness.svm.events import vector_name
from harness.svm.msr import MSR, describe_msr
from harness.text import line

LEAF = 0x8000_000A
DEADLINE_S = 30.0

MSRS = (
    (MSR.EFER, "SVME is bit 12", "3.1.7"),
    (MSR.VM_CR, "SVM lock and disable", "15.30.1"),
    (MSR.IGNNE, "the processor's IGNNE signal", "15.30.2"),
    (MSR.SMM_CTL, "write-only: hardware answers a read with #GP", "15.30.3"),
    (MSR.VM_HSAVE_PA, "where VMRUN saves host state", "15.30.4"),
    (MSR.TSC_RATIO, "scales the guest's TSC; there where TscRateMsr is", "15.30.5"),
    (MSR.SVM_KEY, "write-only: hardware reads it as 0; there where SVML is", "15.31"),
    (MSR.AVIC_DOORBELL, "write-only; there where AVIC is", "15.29"),
    (MSR.DEBUGCTL, "last branch records on and off; virtualised where LbrVirt is", "13.1.1"),
    (MSR.SPEC_CTRL, "speculation control; virtualised where SpecCtrl is", "3.2.9"),
    (MSR.DEBUG_EXTN_CTL, "there where the last branch record stack is", "13.1.1"),
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "caps",
        parents=[common],
        help="show what SVM a target offers: CPUID Fn8000_000A bit by bit, and the SVM MSRs",
        description="Boots the executor on a target and asks it. Reads only: no MSR is written but EFER.SVME by "
        "the executor itself. Exit status 0, or 3 if the target does not come up.",
    )
    parser.add_argument("--target", default="qemu-tcg", metavar="NAME", help="default: qemu-tcg")
    parser.add_argument("--cpu", metavar="MODEL", help="the CPU model of an emulated target, e.g. max,+svm,-npt")
    parser.add_argument("--json", action="store_true", help="as JSON")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Boots, asks, prints."""
    programs = machine.programs_of(args)
    machine.check_targets([args.target])
    machine.prepare([args.target], programs, may_install=not args.no_install)
    with machine.running(args.target, programs, cpu_model=args.cpu) as now:
        cpuid = now.hello.cpuid
        asked = [steps.cpuid(LEAF), *(steps.rdmsr(int(number)) for number, _, _ in MSRS)]
        records = machine.ask(now, asked, DEADLINE_S)
        version = now.target.version()
    if len(records) != len(asked):
        raise HarnessError(f"{args.target}: {len(records)} answers to {len(asked)} questions")
    leaf = steps.decode_cpuid(records[0])
    msrs = [_msr(record, *about) for record, about in zip(records[1:], MSRS, strict=True)]
    if args.json:
        json.dump(_as_json(args.target, version, cpuid, leaf, msrs), sys.stdout, indent=1)
        print()
    else:
        _print(args.target, version, cpuid, leaf, msrs)
    return EXIT_OK


def _msr(record: steps.Record, number: MSR, about: str, apm: str) -> dict[str, Any]:
    value, fault = steps.decode_msr(record)
    told: dict[str, Any] = {
        "number": int(number),
        "name": number.name,
        "about": about,
        "apm": apm,
        "value": value,
        "fault": None,
    }
    if fault is not None:
        error = "" if fault.error is None else f"[{fault.error:X}]"
        told["fault"] = f"{vector_name(fault.vector)}{error}"
    return told


def _as_json(
    target: str, version: str, cpuid: Cpuid, leaf: tuple[int, int, int, int], msrs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "target": target,
        "version": version,
        "vendor": cpuid.vendor,
        "brand": cpuid.brand.strip(),
        "svm": cpuid.svm,
        "fn8000_000a": dict(zip(("eax", "ebx", "ecx", "edx"), leaf, strict=True)),
        "svm_revision": leaf[0] & 0xFF,
        "asids": leaf[1],
        "bits": [
            {
                "bit": b.bit,
                "name": b.name,
                "title": b.title,
                "apm": b.apm,
                "reserved": b.reserved,
                "offered": bool(leaf[3] >> b.bit & 1),
            }
            for b in SVM_BITS
        ],
        "msrs": msrs,
    }


def _print(
    target: str, version: str, cpuid: Cpuid, leaf: tuple[int, int, int, int], msrs: list[dict[str, Any]]
) -> None:
    eax, ebx, ecx, edx = leaf
    print(line(f"{target}: {version}; {cpuid.vendor} {cpuid.brand.strip()}"))
    print(f"SVM {'offered' if cpuid.svm else 'NOT offered'} (Fn8000_0001 ECX bit 2)")
    print()
    print(f"Fn8000_000A EAX {eax:08X}  bits 7:0 revision {eax & 0xFF}; bits 31:8 reserved{_odd(eax >> 8)}")
    print(f"Fn8000_000A EBX {ebx:08X}  bits 31:0 number of ASIDs: {ebx}")
    print(f"Fn8000_000A ECX {ecx:08X}  bits 31:0 reserved{_odd(ecx)}")
    print(f"Fn8000_000A EDX {edx:08X}")
    for b in SVM_BITS:
        offered = bool(edx >> b.bit & 1)
        name = "reserved" if b.reserved else b.name
        title = "" if b.reserved else f"{b.title} (APM2 {b.apm})"
        told = ("YES  <- a reserved bit" if b.reserved else "yes") if offered else "-"
        print(f"  {b.bit:2}  {name:26} {told:4} {title}".rstrip())
    print()
    print("MSRs as L1 reads them")
    for msr in msrs:
        if msr["fault"]:
            got = str(msr["fault"])
        else:
            meaning = describe_msr(msr["number"], msr["value"])
            got = f"{msr['value']:016X}" + (f" {meaning}" if meaning else "")
        print(f"  {msr['number']:08X}h {msr['name']:14} {got:34} {msr['about']} (APM2 {msr['apm']})")


def _odd(value: int) -> str:
    return f", but not zero: {value:X}h" if value else ""
