"""The L0 of a host, by its kind."""

from __future__ import annotations

from harness.hosts.l0 import L0
from harness.hosts.spec import HostSpec
from harness.machine.base import TargetOptions


def make_l0(spec: HostSpec, options: TargetOptions) -> L0:
    """What knows how guests are started on that host."""
    if spec.l0 == "xen":
        from harness.hosts.xen import Xen

        return Xen(spec, options)
    from harness.hosts.kvm import Kvm

    return Kvm(spec, options)
