"""Address bits that no physical address has: at or above MAXPHYADDR, and from 52 on whatever MAXPHYADDR is."""

import pytest

ARCHITECTURAL_LIMIT = 52

ABOVE_MAXPHYADDR = [pytest.param(n, id=f"maxphyaddr+{n}") for n in range(12)]
ABOVE_LIMIT = [pytest.param(bit, id=f"bit{bit}") for bit in range(ARCHITECTURAL_LIMIT, 64)]


def beyond(l1, bit):
    """The number of a bit of these lists: one below 52 counts from MAXPHYADDR. Skips what ABOVE_LIMIT asks as well."""
    number = bit if bit >= ARCHITECTURAL_LIMIT else bit + l1.cpuid.maxphyaddr
    if bit < ARCHITECTURAL_LIMIT <= number:
        pytest.skip(f"MAXPHYADDR is {l1.cpuid.maxphyaddr}: bit {number} is asked for by its number")
    return number
