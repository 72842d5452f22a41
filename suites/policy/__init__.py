"""What L0 offers L1 in CPUID: whether it fits together, and what a policy wants of it."""
