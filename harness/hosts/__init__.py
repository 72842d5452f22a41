"""Lab hosts: machines with KVM or Xen as L0 that are reached over SSH."""
