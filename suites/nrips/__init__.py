"""CPUID Fn8000_000A EDX[3] (NRIPS): the address behind the intercepted instruction, in the VMCB's nRIP field (0C8h)."""
