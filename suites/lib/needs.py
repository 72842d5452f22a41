"""What a test needs of the processor besides a feature bit. Each function skips the test, and names what is missing."""

import pytest

ADDRESS_BITS_OF_AN_ENTRY = 52


def need_two_asids(l1):
    """Two ASIDs for guests: NASID counts the host's as well."""
    if l1.cpuid.nasid < 3:
        pytest.skip(f"CPUID Fn8000_000A EBX (NASID) is {l1.cpuid.nasid}: there is one guest ASID only")


def need_reserved_address_bit(l1):
    """A page table entry with an address bit that must be 0."""
    if l1.cpuid.maxphyaddr >= ADDRESS_BITS_OF_AN_ENTRY:
        pytest.skip(f"CPUID Fn8000_0008 EAX[7:0] (MAXPHYADDR) is {l1.cpuid.maxphyaddr}: no address bit is reserved")
