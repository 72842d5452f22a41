"""The general registers in the order of their numbers, as instructions and EXITINFO1 have them."""

GPRS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16))]
GPRS_32 = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"]
