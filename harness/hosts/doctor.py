"""What a host lacks to be tested, one finding a line, each with the line that mends it. Looks, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.hosts.doctor_kvm import kvm_findings
from harness.hosts.doctor_xen import xen_findings
from harness.hosts.finding import HostFinding
from harness.hosts.lease_scripts import STALE_S
from harness.hosts.spec import HostSpec
from harness.hosts.taint import Taint, describe

SPACE_MIN_KIB = 8 * 1024
__all__ = ["HostFinding", "findings", "ready"]

Facts = Mapping[str, str]


def findings(facts: Facts, spec: HostSpec) -> list[HostFinding]:
    """All that is found of a host, from its answers (facts.py)."""
    return [*_machine(facts), *(xen_findings if spec.l0 == "xen" else kvm_findings)(facts, spec), *_place(facts, spec)]


def ready(found: list[HostFinding]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(finding.ok is not False for finding in found)


def _machine(facts: Facts) -> Iterator[HostFinding]:
    user = facts["user"].split()
    if len(user) < 2 or not facts["kernel"]:
        yield HostFinding(
            False, "host", "it does not answer as Linux does", "log in as a user with a POSIX shell on Linux"
        )
        return
    yield HostFinding(True, "user", f"{user[1]} (uid {user[0]})")
    yield HostFinding(True, "kernel", f"Linux {facts['kernel'].splitlines()[0]}")
    match facts["log"]:
        case "kmsg":
            yield HostFinding(True, "kernel log", "can be followed: an oops or a warning of L0 is seen")
        case "journal":
            yield HostFinding(True, "kernel log", "can be followed in the journal: an oops or a warning of L0 is seen")
        case _:
            yield HostFinding(
                None,
                "kernel log",
                "cannot be read by this user: an oops of L0 would not be seen",
                f"log in as root, or: usermod -aG systemd-journal {user[1]}",
            )
    tainted = facts["tainted"]
    if tainted.isdecimal() and int(tainted):
        yield HostFinding(None, "taint", f"the kernel is tainted already: {describe(Taint(int(tainted)))}")


def _place(facts: Facts, spec: HostSpec) -> Iterator[HostFinding]:
    there, *rest = facts["workdir"].splitlines() or [""]
    if "writable" not in rest:
        yield HostFinding(
            False,
            "workdir",
            f"{spec.workdir}: this user may not write to {there or 'it'}",
            "set workdir for this host to a folder below one that the user owns (docs/hosts.md)",
        )
    else:
        yield _space(facts, spec, there, rest[-1])
    if facts["lease"]:
        yield _lease(facts["lease"])


def _space(facts: Facts, spec: HostSpec, there: str, df: str) -> HostFinding:
    numbers = re.search(r"\s(\d+)\s+(\d+)\s+(\d+)\s+\d+%", df)
    free_kib = int(numbers[3]) if numbers else None
    options = _mount_options(facts["mounts"], there)
    if "noexec" in options:
        return HostFinding(
            False,
            "workdir",
            f"{spec.workdir} is on a file system mounted noexec",
            "set workdir for this host to a folder from which programs may be started",
        )
    if free_kib is not None and free_kib < SPACE_MIN_KIB:
        told = f"{spec.workdir} has {free_kib} KiB free, {SPACE_MIN_KIB} are wanted"
        return HostFinding(False, "workdir", told, "make room there, or set workdir for this host")
    room = "" if free_kib is None else f", {free_kib // 1024} MiB free"
    return HostFinding(True, "workdir", f"{spec.workdir}{room}; it is made when a run begins and removed when it ends")


def _mount_options(mounts: str, path: str) -> list[str]:
    """The options of the file system that a path is on."""
    best: tuple[int, list[str]] = (-1, [])
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) >= 4:
            at = parts[1].replace("\\040", " ")
            if f"{path}/".startswith(f"{at.rstrip('/')}/") and len(at) >= best[0]:
                best = (len(at), parts[3].split(","))
    return best[1]


@dataclass(frozen=True)
class _Holder:
    run: str
    boot: str
    since: str
    who: str


def _lease(text: str) -> HostFinding:
    lines = text.splitlines()
    try:
        at = lines.index("now")
        holder = _Holder(*lines[:4])
        now, boot = int(lines[at + 1]), lines[at + 2]
        ages = [now - int(beat) for beat in lines[at + 3 :] if beat.strip().isdecimal()]
    except (ValueError, IndexError, TypeError):
        return HostFinding(None, "lease", f"cannot be read: {text.splitlines()[0][:100]!r}; the next run says more")
    who = f"{holder.who}, run {holder.run}, since {holder.since}"
    if boot != holder.boot or not ages or min(ages) >= STALE_S:
        return HostFinding(True, "lease", f"a dead run's ({who}): the next one takes over and cleans up")
    return HostFinding(
        False, "lease", f"in use by {who}, last sign of life {min(ages)} s ago", "wait until that run ends"
    )
