"""Whether a simulated host can be a target, from what it answered; it is not there itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from harness.hosts.connection import Connection, Ran
from harness.sim import probe
from harness.sim.error import SimError
from harness.sim.state import State

FEATURES = (
    "(XEN) SVM: Supported advanced features:\n(XEN)  - Nested Page Tables (NPT)\n(XEN)  - Next-RIP Saved on #VMEXIT\n"
)
REFUSED = "Parsing config from /tmp/nsvm-probe.cfg\nlibxl: error: Xen says no\n"


class Host:
    """Answers by what a script begins with, and by whether a guest that is created is to have nested SVM."""

    def __init__(self, answers: Mapping[str, Ran]) -> None:
        self._answers = answers
        self.uploaded: list[str] = []

    def run(self, script: str, *, deadline_s: float) -> Ran:
        if "xl -f create" in script:
            return self._answers["nested" if "nestedhvm=1" in script else "plain"]
        return next(answer for begins, answer in self._answers.items() if script.startswith(begins))

    def upload(self, data: bytes, path: str) -> bool:
        self.uploaded.append(path)
        return True


def ran(text: str, status: int = 0) -> Ran:
    return Ran(status, text.encode(), b"")


def look(kind: str, **answers: Ran) -> State:
    state = State(
        directory=Path("/nonexistent") / kind,
        kind=kind,
        suite="bookworm",
        inputs="",
        argv=(),
        qemu_version="",
        qemu_stamp=(0, 0),
        l0_version="",
        l0_version_tuple=(),
        host_key="",
        paused=False,
    )
    named = {name.replace("_", " "): answer for name, answer in answers.items()}
    return probe.look(state, cast(Connection, Host(named)), 5.0)


@pytest.mark.parametrize(
    ("device", "nested", "reason"),
    [
        ("kvm", "1", ""),
        ("kvm", "Y", ""),
        ("kvm", "0", "kvm_amd has nested=0 there"),
        ("none", "absent", "kvm_amd is not loaded: the kernel does not take the outer CPU for one with SVM"),
        ("none", "1", "there is no /dev/kvm"),
    ],
)
def test_a_kvm_host(device: str, nested: str, reason: str) -> None:
    said = f"6.1.0-9-amd64\n#1 SMP Debian 6.1.192-2 (2026-01-01)\n{device}\n{nested}\n"
    state = look("kvm", uname=ran(said))
    assert (state.available, state.reason) == (not reason, reason)
    assert state.l0_version_tuple == (6, 1, 192)


def test_a_shell_that_says_something_else() -> None:
    with pytest.raises(SimError, match="the host's shell says 'what'"):
        look("kvm", uname=ran("what\n"))


def xen(nested: Ran, plain: Ran | None = None, capabilities: str = "pv hvm hap") -> State:
    info = ran(f"4.20.5-pre\n{capabilities}\n")
    return look("xen", xl_info=info, xl_dmesg=ran(FEATURES), nested=nested, plain=plain or nested)


def test_a_xen_host_that_gives_guests_svm() -> None:
    state = xen(ran("Parsing config\n"))
    assert (state.available, state.l0_version, state.l0_version_tuple) == (True, "Xen 4.20.5-pre", (4, 20, 5))


def test_a_xen_host_that_refuses_says_what_the_cpu_lacks() -> None:
    state = xen(ran(REFUSED, 1), plain=ran(""))
    assert not state.available
    assert state.reason == (
        "Xen 4.20.5-pre refuses nested guests: the outer machine lacks LbrVirt, FlushByAsid, DecodeAssists, "
        "which it requires"
    )


def test_a_xen_host_without_nested_paging() -> None:
    state = xen(ran(""), capabilities="pv hvm")
    assert (state.available, state.reason) == (False, "Xen offers no HAP on this outer machine, only pv hvm")


def test_a_xen_host_that_starts_no_guest_at_all_is_broken() -> None:
    with pytest.raises(SimError, match="Xen starts no guest there: libxl: error: Xen says no"):
        xen(ran(REFUSED, 1))


def test_a_xen_host_without_its_toolstack() -> None:
    with pytest.raises(SimError, match="xl does not work there"):
        look("xen", xl_info=ran("", 1))
