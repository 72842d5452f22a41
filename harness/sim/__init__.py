"""Simulated hosts: a real Linux with KVM, or a real Xen, on an emulated AMD machine, reached by SSH as any host is."""
