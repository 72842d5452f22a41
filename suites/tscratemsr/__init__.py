"""TscRateMsr (CPUID Fn8000_000A EDX[4]): the ratio by which a guest's TSC is scaled, and TSC_OFFSET with it."""
