"""TLB_CONTROL 03h and 07h: L1 has one ASID's translations dropped; and the same values where that is not offered."""
