"""SVML (CPUID Fn8000_000A EDX[2]): the lock on VM_CR.SVMDIS, and SVM_KEY, which opens it."""
