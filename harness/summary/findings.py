"""The findings: what deviates in real hypervisors, as a page for those who mend them. Pure.

Made from the baselines alone, so that a finding cannot disagree with the expectation that shows it: an entry with a
severity is a finding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.judge.baseline import SEVERITIES, Deviation
from harness.judge.clauses import Clause
from harness.svm.condition import evaluate
from harness.svm.features import SVM_BITS, known

NAMES = {"kvm": "KVM", "xen": "Xen"}
USUAL = {"kvm": "6.1", "xen": "4.17"}  # of sim:kvm and sim:xen

INTRO = """\
# Findings

Where a real hypervisor, as L0, shows an L1 hypervisor something that AMD hardware does not. One entry for each cause,
with all the clauses that it breaks: what is left out is what the emulated CPU below a simulated host does wrong by
itself (`baselines/*-on-tcg.toml`). This page is made from the baselines by `./nsvm findings --write`.

No entry was seen on silicon. Each was seen on a simulated host (`./nsvm sim build`), where the hypervisor's own code
runs on QEMU's emulated AMD CPU, and its reason was read in the hypervisor's source: on hardware the same code gives
the same answer. Xen calls nested HVM experimental. Severity is our own judgement of what an attacker in L1 or L2 could
make of it:

| severity | meaning |
| --- | --- |
| high | L2 or L1 gains a privilege, reads what is not its own, or takes the host down |
| medium | L2 takes its L1 down, or L1 disturbs L0 |
| low | a guest hypervisor that relies on the rule can be misled by its L2 |
| none | a guest hypervisor sees the difference; nobody gains by it |
"""

UNSEEN = """
## Read, and not seen

These were read in the source and no test has shown them, for most because the emulated CPU has not the feature. A run
on hardware would.

- **Xen 4.17 and 4.20, high**: an exit code that `nsvm_vmcb_guest_intercepts_exitcode()` does not list ends in
  `BUG()`, and the host is down. Xen intercepts RDPRU for itself (`construct_vmcb()`), the merged VMCB keeps the
  bit, and 8Eh is not listed: on a CPU with RDPRU an L2 program at CPL 3 (CR4.TSD=0) would do it. The case `rdpru`
  of `suites/core/test_intercept_feature_absent.py` would show it; it is marked dangerous.
- **Xen 4.17 and 4.20, high**: bits 15 to 31 of VMCB 010h (write traps of EFER and the control registers) and all of
  060h (AVIC enable among it) go from L1's VMCB into the one that runs, without a mask: exits 8Fh to 9Fh, 401h and
  402h end in the same `BUG()`, and with AVIC the backing page is host-physical page 0.
- **Xen 4.17 and 4.20, medium**: on a CPU with virtual GIF `svm_nested_features_on_efer_update()`, which
  `nsvm_vmcb_prepare4vmrun()` reaches by `hvm_set_efer()` after it merged the intercepts, sets V_GIF_ENABLE in the VMCB
  that runs L2, if L1's has it clear, and takes the STGI and CLGI intercepts out of it, L1's own among them. An L2 that
  executes CLGI, which L1 meant to intercept, then holds back L1's interrupts (`nestedsvm_gif_isset()`) until it exits.
  The cases `clgi` and `stgi` of `suites/core/test_exit_rip.py` would show the lost intercepts.
- **Xen 4.17 and 4.20, low**: `svm_save_dr()`, when the vCPU loses the CPU while L2 runs, closes the debug registers in
  the VMCB of L2 alone. In that of L1 they may stay open: L1 then reads in DR0 to DR3 the addresses that dom0 or another
  guest left there, and what it writes is lost.
- **KVM 6.1 and 6.12**: DR7 of L1's VMCB is loaded for L2, DR0 to DR3 only if L1's own DR7 enables a breakpoint
  (`switch_db_regs`): L2's breakpoints may match addresses that another guest left. `core.load.dr7_arms_l2` would
  show it.
"""


@dataclass(frozen=True)
class Finding:
    """One deviation of one hypervisor from one clause. `nodes` are the node ids of the tests that show it."""

    deviation: Deviation
    clause: Clause
    nodes: tuple[str, ...]


def find(
    deviations: Iterable[Deviation], clauses: Mapping[str, Clause], collected: Sequence[Mapping[str, object]]
) -> list[Finding]:
    """The findings among the entries of one baseline, the worst first. `collected` as `nsvm clauses` collects tests."""
    nodes = [str(entry["test"]) for entry in collected]
    found = []
    for deviation in deviations:
        if not deviation.severity or deviation.clause not in clauses:
            continue
        shown = (node for node in nodes if deviation.tests and deviation.covers(deviation.clause, node))
        found.append(Finding(deviation, clauses[deviation.clause], tuple(shown)))
    return sorted(found, key=lambda each: (SEVERITIES.index(each.deviation.severity), each.clause.id))


def by_cause(found: Iterable[Finding]) -> list[list[Finding]]:
    """Findings that say the same of cause, source and attacker are one and the same defect, in the order of the
    first."""
    causes: dict[tuple[object, ...], list[Finding]] = {}
    for each in found:
        of = each.deviation
        causes.setdefault((of.severity, of.reason, of.reference, of.attack, of.seen, of.versions), []).append(each)
    return list(causes.values())


def page(by_name: Mapping[str, Sequence[Finding]], offered: Mapping[str, Collection[str]] | None = None) -> str:
    """The whole page, by name of the baseline. `offered`: the bits of Fn8000_000A EDX that L1 has on the usual
    simulated host; what asks for others shows on the reference machine."""
    offered = offered or {}
    parts = [INTRO]
    for name, found in by_name.items():
        parts.append(f"\n## {NAMES.get(name, name)}\n")
        causes = by_cause(found)
        counts = {severity: sum(each[0].deviation.severity == severity for each in causes) for severity in SEVERITIES}
        said = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) or "none"
        clauses = len({each.clause.id for each in found})
        parts.append(f"{len(causes)} finding{'s' * (len(causes) != 1)}: {said}. They break {clauses} clauses.\n")
        parts += [_entry(name, cause, offered.get(name)) for cause in causes]
    return "\n".join([*parts, UNSEEN])


def _entry(name: str, cause: Sequence[Finding], offered: Collection[str] | None) -> str:
    deviation = cause[0].deviation
    clauses = list({each.clause.id: each.clause for each in cause}.values())
    more = f" and {len(clauses) - 1} more" if len(clauses) > 1 else ""
    rules = "\n".join(f"- {each.id} (APM {each.apm}): {each.statement}" for each in clauses)
    seen = ", ".join(deviation.seen) or "see the reference"
    holds = f"; entered for {deviation.versions}" if deviation.versions else ""
    easy_first = sorted(cause, key=lambda each: (not _asked(each.clause, offered), each.deviation.sometimes))
    of, shown = next(((each, node) for each in easy_first for node in each.nodes), (easy_first[0], ""))
    where = _target(name, deviation) + "-on-reference" * (not _asked(of.clause, offered))
    again = f"./nsvm run --target {where}" + f" '{shown}'" * bool(shown)
    return f"""\
### {clauses[0].id}{more}: {deviation.severity}

{rules}

- **Seen**: {_where(cause)}; versions: {seen}{holds}.
- **What happens**: {deviation.reason}
- **Read in**: {deviation.reference}
- **For an attacker**: {deviation.attack}
- **Again**: `{again}`
"""


def _target(name: str, deviation: Deviation) -> str:
    """A simulated host that shows it: the usual one, or one of the first version in which it was seen."""
    seen = deviation.seen
    if not seen or any(f"{version}.".startswith(f"{USUAL[name]}.") for version in seen):
        return f"sim:{name}"
    return f"sim:{name}@{'.'.join(seen[0].split('.')[:2])}"


def _asked(clause: Clause, offered: Collection[str] | None) -> bool:
    """Whether its tests ask anything where L1 has these bits, and whatever else they want."""
    if offered is None:
        return True
    absent = {bit.name for bit in SVM_BITS} - set(offered)
    return evaluate(clause.condition, lambda name: known(name).name not in absent, str)[0]


def _where(cause: Sequence[Finding]) -> str:
    tests: dict[str, set[str]] = {}
    for each in cause:
        tests.setdefault(each.deviation.verdict, set()).update(each.nodes)
    said = [f"{verdict} in {len(nodes)} test{'s' * (len(nodes) != 1)}" for verdict, nodes in tests.items() if nodes]
    said += ["in what is asked of every #VMEXIT"] * any(not each.deviation.tests for each in cause)
    return ", ".join(said) + ", by chance" * all(each.deviation.sometimes for each in cause)
