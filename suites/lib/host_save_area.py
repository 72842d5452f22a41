"""VM_HSAVE_PA (C001_0117h): for tests that write it."""

from collections.abc import Iterator
from contextlib import contextmanager

from harness import L1

VM_HSAVE_PA = 0xC001_0117


@contextmanager
def own_hsave(l1: L1) -> Iterator[None]:
    """Puts VM_HSAVE_PA back at the end; where a test fails on the way, the boot is used up instead."""
    own = l1.rdmsr(VM_HSAVE_PA)
    assert own.ok
    try:
        yield
    except AssertionError:
        l1.dirty("VM_HSAVE_PA was written")
        raise
    assert l1.wrmsr(VM_HSAVE_PA, own.value).ok
