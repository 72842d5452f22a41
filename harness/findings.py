"""The findings: what deviates in real hypervisors, as a page for those who mend them. Pure.

Made from the baselines alone, so that a finding and the expectation that shows it cannot part ways: an entry with a
severity is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.baseline import SEVERITIES, Deviation
from harness.clauses import Clause

NAMES = {"kvm": "KVM", "xen": "Xen"}

INTRO = """\
# Findings

Where a real hypervisor, as L0, shows an L1 hypervisor something that AMD hardware does not. One entry for each true
deviation: what is left out is what the emulated CPU below a simulated host does wrong by itself (`baselines/*-on-
tcg.toml`). This page is made from the baselines by `./nsvm findings --write`.

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

These were read in the source; the emulated CPU has not the feature that would show them. A run on hardware would.

- **Xen 4.17 and 4.20, high**: an exit code that `nsvm_vmcb_guest_intercepts_exitcode()` does not list ends in
  `BUG()`, and the host is down. Xen intercepts RDPRU for itself (`construct_vmcb()`), the merged VMCB keeps the
  bit, and 8Eh is not listed: on a CPU with RDPRU an L2 program at CPL 3 (CR4.TSD=0) would do it. The case `rdpru`
  of `suites/core/test_intercept_feature_absent.py` would show it; it is marked dangerous.
- **Xen 4.17 and 4.20, high**: bits 15 to 31 of VMCB 010h (write traps of EFER and the control registers) and all of
  060h (AVIC enable among it) go from L1's VMCB into the one that runs, without a mask: exits 8Fh to 9Fh, 401h and
  402h end in the same `BUG()`, and with AVIC the backing page is host-physical page 0.
- **KVM 6.1 and 6.12**: DR7 of L1's VMCB is loaded for L2, DR0 to DR3 only if L1's own DR7 enables a breakpoint
  (`switch_db_regs`): L2's breakpoints may match addresses that another guest left. `core.load.dr7_arms_l2` would
  show it.
"""


@dataclass(frozen=True)
class Finding:
    """One deviation of one hypervisor. `test` is the node id of a test that shows it, `tests` how many there are."""

    deviation: Deviation
    clause: Clause
    test: str
    tests: int


def find(
    deviations: Iterable[Deviation], clauses: Mapping[str, Clause], collected: Sequence[Mapping[str, object]]
) -> list[Finding]:
    """The findings among the entries of one baseline, the worst first. `collected` as `nsvm clauses` collects tests."""
    nodes = [str(entry["test"]) for entry in collected]
    found = []
    for deviation in deviations:
        if not deviation.severity or deviation.clause not in clauses:
            continue
        shown = [node for node in nodes if deviation.tests and deviation.covers(deviation.clause, node)]
        found.append(Finding(deviation, clauses[deviation.clause], shown[0] if shown else "", len(shown)))
    return sorted(found, key=lambda each: (SEVERITIES.index(each.deviation.severity), each.clause.id))


def page(by_name: Mapping[str, Sequence[Finding]]) -> str:
    """The whole page, by name of the baseline."""
    parts = [INTRO]
    for name, found in by_name.items():
        parts.append(f"\n## {NAMES.get(name, name)}\n")
        counts = {severity: sum(each.deviation.severity == severity for each in found) for severity in SEVERITIES}
        said = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) or "none"
        parts.append(f"{len(found)} findings: {said}.\n")
        parts += [_entry(name, each) for each in found]
    return "\n".join([*parts, UNSEEN])


def _entry(name: str, finding: Finding) -> str:
    deviation, clause = finding.deviation, finding.clause
    seen = ", ".join(deviation.seen) or "see the reference"
    holds = f"; entered for {deviation.versions}" if deviation.versions else ""
    many = f"{deviation.verdict} in {finding.tests} tests" if finding.tests != 1 else f"{deviation.verdict} in 1 test"
    again = f"./nsvm run --target sim:{name} '{finding.test}'" if finding.test else f"./nsvm run --target sim:{name}"
    return f"""\
### {clause.id}: {deviation.severity}

The rule (APM {clause.apm}): {clause.statement}

- **Seen**: {many if deviation.tests else "in every test that exits"}; versions: {seen}{holds}.
- **What happens**: {deviation.reason}
- **Read in**: {deviation.reference}
- **For an attacker**: {deviation.attack}
- **Again**: `{again}`
"""
