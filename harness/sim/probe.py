"""A look at a simulated host that has just come up: what it is, and whether it lets a guest have SVM."""

from __future__ import annotations

import dataclasses
import re
import shlex

from harness.hosts.connection import Connection
from harness.hosts.cpu_bits import of_xen_log
from harness.hosts.doctor_xen import REQUIRED
from harness.hosts.kvm import version as kvm_version
from harness.sim import pvh
from harness.sim.error import SimError
from harness.sim.parameters import check_known_to_xen, check_taken, script
from harness.sim.state import State

KVM = """\
uname -r; uname -v
[ -c /dev/kvm ] && echo kvm || echo none
cat /sys/module/kvm_amd/parameters/nested 2>/dev/null || echo absent
"""

GUEST = "/tmp/nsvm-probe.elf"
XEN_CONFIG = f"""\
name="nsvm-probe"
type="pvh"
kernel="{GUEST}"
memory=16
vcpus=1
hap=1
nestedhvm=%d
"""
XEN_CREATE = f"""\
printf %s {{config}} > /tmp/nsvm-probe.cfg
xl -f create -p /tmp/nsvm-probe.cfg > /tmp/nsvm-probe.log 2>&1; status=$?
xl destroy nsvm-probe > /dev/null 2>&1
cat /tmp/nsvm-probe.log; rm -f /tmp/nsvm-probe.* {GUEST}
exit $status
"""


def look(state: State, host: Connection, deadline_s: float) -> State:
    """The state with what was found. Raises SimError if the host is not what it should be."""
    return (_look_kvm if state.kind == "kvm" else _look_xen)(state, host, deadline_s)


def _look_kvm(state: State, host: Connection, deadline_s: float) -> State:
    if asked := script(state.append):
        check_taken(state.append, host.run(asked, deadline_s=deadline_s).text.splitlines())
    lines = host.run(KVM, deadline_s=deadline_s).text.splitlines()
    if len(lines) != 4:
        raise SimError(f"the host's shell says {' / '.join(lines)[:200]!r}")
    release, build, device, nested = lines
    reason = ""
    if nested == "absent":
        reason = "kvm_amd is not loaded: the kernel does not take the outer CPU for one with SVM"
    elif nested not in ("1", "Y"):
        reason = f"kvm_amd has nested={nested} there"
    elif device != "kvm":
        reason = "there is no /dev/kvm"
    text, numbers = kvm_version(release, build)
    return dataclasses.replace(state, l0_version=text, l0_version_tuple=numbers, available=not reason, reason=reason)


def _look_xen(state: State, host: Connection, deadline_s: float) -> State:
    ran = host.run("xl info xen_version && xl info virt_caps", deadline_s=deadline_s)
    lines = ran.text.splitlines()
    if ran.status or len(lines) != 2:
        raise SimError(f"xl does not work there: {ran.complaint or ran.text[:200]}")
    version, capabilities = lines
    if state.append:
        check_known_to_xen(state.append, host.run("xl dmesg", deadline_s=deadline_s).text)
    state = dataclasses.replace(state, l0_version=f"Xen {version}", l0_version_tuple=_numbers(version))
    if "hap" not in capabilities.split():
        reason = f"Xen offers no HAP on this outer machine, only {capabilities}"
        return dataclasses.replace(state, available=False, reason=reason)
    failed = _create(host, nested=True, deadline_s=deadline_s)
    if failed is None:
        return state
    plain = _create(host, nested=False, deadline_s=deadline_s)
    if plain is not None:
        raise SimError(f"Xen starts no guest there: {plain}")
    lacking = lacking_features(host.run("xl dmesg", deadline_s=deadline_s).text)
    why = f"the outer machine lacks {', '.join(lacking)}, which it requires" if lacking else failed
    return dataclasses.replace(state, available=False, reason=f"Xen {version} refuses nested guests: {why}")


def _create(host: Connection, *, nested: bool, deadline_s: float) -> str | None:
    """Creates a guest and destroys it; None if that worked, else what xl said."""
    host.upload(pvh.guest(), GUEST)
    script = XEN_CREATE.format(config=shlex.quote(XEN_CONFIG % nested))
    ran = host.run(script, deadline_s=deadline_s)
    if ran.status == 0:
        return None
    said = [line.strip() for line in ran.text.splitlines() if "error" in line.lower()]
    return (said or ["xl create says nothing"])[0][:300]


def lacking_features(messages: str) -> list[str]:
    """Which of the features required for nested guests Xen did not find, by its boot messages."""
    found = re.search(r"SVM: Supported advanced features:\n((?:\(XEN\).* - .*\n?)*)", messages)
    if found is None:
        return []
    there = of_xen_log(found[1])
    return [name for name in REQUIRED if name not in there]


def _numbers(version: str) -> tuple[int, ...]:
    """As in (4, 20, 5) of 4.20.5-pre."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
