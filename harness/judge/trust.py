"""Who agrees with a clause: the words of `trust`, spelt out.

A word says that this source has text, code or a test that fits the clause. It was given by reading, not by running.
"""

from __future__ import annotations

TRUST = {
    "APM": "AMD64 Architecture Programmer's Manual, volume 2, states or implies it",
    "KVM61": "KVM, as of Linux 6.1",
    "KVMn": "KVM, newer than Linux 6.1",
    "XEN": "Xen",
    "KUT": "kvm-unit-tests (x86/svm*.c)",
    "KST": "the KVM selftests of Linux",
    "BOCHS": "Bochs",
    "QEMU": "QEMU's TCG",
    "VBOX": "VirtualBox (IEM)",
    "BHYVE": "bhyve",
    "XTF": "the Xen Test Framework",
}
