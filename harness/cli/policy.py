"""`nsvm policy`: what L0 offers L1, bit by bit, against a policy: the table that a release manager reads."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.cli import machine
from harness.cli.console import EXIT_NEW, EXIT_OK, HarnessError, UserError
from harness.cli.paths import ROOT
from harness.hosts.cpu_bits import LINUX, XEN, hardware_bits
from harness.hosts.facts import ask
from harness.judge.policy import Policy, PolicyError, Row, Signature, judge, load_policy, policy_names
from harness.machine import feature_mask
from harness.machine.base import TargetError
from harness.sim.error import SimError
from harness.svm.coherence import Contradiction, contradictions
from harness.svm.cpuid import Cpuid
from harness.targets.reach import reached
from harness.text import line

FOLDER = ROOT / "policies"
HOSTS = ("host:", "ssh://", "sim:")
WIDTH = 118
FORM = "{:>3} {:26} {:12} {:9} {:9} {:4} {}"
NOT_NAMED = ("noted", "open")


@dataclass(frozen=True)
class Judgement:
    """What was found of one target."""

    policy: Policy
    target: str
    version: str
    cpuid: Cpuid
    processor: str
    """Whose dumps the rules are from; "" where the policy names its bits."""
    rows: Sequence[Row]
    asked: str
    """Why L0's CPU was not asked; "" if it was."""
    contradictions: Sequence[Contradiction]

    @property
    def complaints(self) -> list[str]:
        """What is not as the policy wants it, a line each."""
        said = [f"{row.rule.bit.name}: {row.verdict}" for row in self.rows if row.deviates]
        lacking = any(row.rule.host == "required" and row.host is False for row in self.rows)
        if not self.cpuid.svm:
            # An L0 whose CPU lacks what the policy requires does right by offering no SVM at all.
            wanted = any(row.rule.guest == "provided" for row in self.rows)
            said = ["SVM: L1 is offered none (Fn8000_0001 ECX[2] is 0)"] if wanted and not lacking else []
        return said + [f"{each.rule}: {each.found}" for each in self.contradictions]


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "policy",
        parents=[common],
        help="compare what a target offers L1 with a policy, bit by bit",
        description="Boots the executor on a target, asks it for CPUID Fn8000_000A, and a host for its CPU's bits, and "
        "compares both with a policy. Without NAME it lists the policies. Exit status 0 if all is as the policy wants "
        "it and fits together, 1 if not, 3 if the target does not come up.",
    )
    parser.add_argument("policy", nargs="?", metavar="NAME", help="a policy of policies/, or a file that ends in .toml")
    parser.add_argument("--target", default="qemu-tcg", metavar="NAME", help="default: qemu-tcg")
    parser.add_argument("--cpu", metavar="MODEL", help="the CPU model of an emulated target, e.g. max,+svm,-npt")
    parser.add_argument("--without", metavar="BITS", help="take bits away from L1, as in NRIPS,VmcbClean")
    parser.add_argument(
        "--as",
        dest="as_cpu",
        metavar="CPU",
        help="with silicon's policy: the processor to compare with, FAMILY, FAMILY/MODEL or FAMILY/MODEL/STEPPING in "
        "hexadecimal, as in 19h/01h; default: the one that L1 sees",
    )
    parser.add_argument("--why", action="store_true", help="also the policy's reason for each bit")
    parser.add_argument("--json", action="store_true", help="as JSON")
    machine.program_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Boots, asks, compares, prints."""
    try:
        if args.policy is None:
            return _list(as_json=args.json)
        policy = load_policy(args.policy, FOLDER)
        if args.as_cpu and not policy.dumps:
            raise UserError(f"--as is for a policy that compares with processors; {policy.name} names its bits")
        signature = _signature(args.as_cpu) if args.as_cpu else None
        if signature:
            policy.rules_for(signature)  # complains before anything is booted
        without = feature_mask.parse(args.without) if args.without else ()
    except PolicyError as error:
        raise UserError(str(error)) from None
    except feature_mask.MaskError as error:
        raise UserError(f"--without: {error}") from None
    programs = machine.programs_of(args)
    machine.check_targets([args.target])
    machine.prepare([args.target], programs, may_install=not args.no_install)
    host, asked = host_bits(args.target)
    with machine.running(args.target, programs, cpu_model=args.cpu, without=without) as now:
        cpuid, version = now.hello.cpuid, now.target.version()
    try:
        rules, processor = policy.rules_for(signature or (cpuid.family, cpuid.model, cpuid.stepping))
    except PolicyError as error:
        raise UserError(f"{error}; L1 sees such a one, so say with --as what to compare with") from None
    rows = judge(rules, cpuid.svm_bits, host)
    told = Judgement(policy, args.target, version, cpuid, processor, rows, asked, list(contradictions(cpuid)))
    if args.json:
        json.dump(_as_object(told), sys.stdout, indent=1)
        print()
    else:
        _print(told, why=args.why)
    return EXIT_NEW if told.complaints else EXIT_OK


def host_bits(target: str) -> tuple[Mapping[str, bool], str]:
    """The bits that L0's CPU is known to have or to lack, and why it was not asked ("": it was).

    A host's kernel, or Xen, has names for some bits only; the others are not in the answer. Raises HarnessError.
    """
    if not target.startswith(HOSTS):
        return {}, "L0 is an emulator: there is no CPU of its own below it"
    try:
        with reached(target) as (connection, spec):
            facts = ask(connection, spec)
    except (TargetError, SimError) as error:
        raise HarnessError(f"{target} cannot be asked for its CPU's bits: {error}") from error
    found = hardware_bits(facts)
    if not found:
        return {}, "the host does not say what its CPU has"
    names = XEN if facts.get("features") else LINUX
    return {name: name in found for name in names.values()}, ""


def _signature(text: str) -> Signature:
    parts = text.replace("h", "").split("/")
    try:
        numbers = [int(part, 16) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or any(not 0 <= number <= 0x10F for number in numbers):
        raise UserError(
            f"--as {text[:40]}: a processor is FAMILY, FAMILY/MODEL or FAMILY/MODEL/STEPPING, as in 19h/01h"
        )
    family, model, stepping = [*numbers, None, None][:3]
    return family or 0, model, stepping


def _list(*, as_json: bool) -> int:
    policies = [load_policy(name, FOLDER) for name in policy_names(FOLDER)]
    if as_json:
        json.dump([{"name": p.name, "title": p.title, "source": p.source} for p in policies], sys.stdout, indent=1)
        print()
    else:
        for policy in policies:
            print(f"{policy.name:12} {policy.title}")
    return EXIT_OK


def _known(value: bool | None) -> str:
    return "?" if value is None else "yes" if value else "no"


def _print(told: Judgement, *, why: bool) -> None:
    cpuid = told.cpuid
    print(line(f"{told.policy.name}: {told.policy.title}"))
    print(line(f"{told.target}: {told.version}; {cpuid.vendor} {cpuid.brand}"))
    svm = "offered" if cpuid.svm else "NOT offered"
    print(f"SVM {svm}; Fn8000_000A EDX {cpuid.svm_bits:08X}, NASID {cpuid.nasid}")
    if told.processor:
        print(f"Compared with {told.processor}")
    print()
    print(FORM.format("bit", "name", "of L0's CPU", "to L1", "L0's CPU", "L1", "verdict"))
    left_out = 0
    for row in told.rows:
        bit = row.rule.bit
        if row.rule.guest in NOT_NAMED and not row.guest and not row.host and row.rule.host != "required":
            left_out += 1
            continue
        name = "reserved" if bit.reserved else bit.name
        wanted = "-" if row.rule.guest in NOT_NAMED else row.rule.guest
        required = "required" if row.rule.host == "required" else "-"
        print(FORM.format(bit.bit, name, required, wanted, _known(row.host), _known(row.guest), row.verdict).rstrip())
        if why and row.rule.why:
            print(textwrap.fill(row.rule.why, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4))
    if left_out:
        print(f"    {left_out} more bits: the policy says nothing of them, and L1 does not see them")
    print()
    if told.asked:
        print(f"L0's CPU: not asked: {told.asked}.")
    complaints = told.complaints
    for each in complaints:
        print(line(f"  {each}"))
    count = len(complaints)
    end = "as the policy wants it, and it fits together" if not count else f"{count} thing{'s' * (count > 1)} to mend"
    print(f"{told.target} against {told.policy.name}: {end}.")


def _as_object(told: Judgement) -> dict[str, Any]:
    return {
        "policy": told.policy.name,
        "title": told.policy.title,
        "source": told.policy.source,
        "target": told.target,
        "version": told.version,
        "svm": told.cpuid.svm,
        "edx": told.cpuid.svm_bits,
        "nasid": told.cpuid.nasid,
        "processor": told.processor,
        "host_not_asked": told.asked,
        "bits": [
            {
                "bit": row.rule.bit.bit,
                "name": row.rule.bit.name,
                "required_of_host": row.rule.host == "required",
                "to_l1": row.rule.guest,
                "in_host": row.host,
                "in_l1": row.guest,
                "verdict": row.verdict,
                "deviates": row.deviates,
                "why": row.rule.why,
            }
            for row in told.rows
        ],
        "complaints": told.complaints,
    }
