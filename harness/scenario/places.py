"""Where things lie in the executor's memory: a map that scenarios share, so that addresses mean the same on every
target.

Addresses are L1-physical, L1-virtual and, unless a scenario builds other tables, L2-physical and L2-virtual.
The arena is [8 MiB, 24 MiB) (docs/link-protocol.md, *Selectors and fixed places*).
"""

from __future__ import annotations

ARENA = 0x80_0000
ARENA_SIZE = 0x100_0000

VMCB = ARENA  # the VMCB of a test's first guest; GUEST_CODE and GUEST_STACK are its own too
IOPM = ARENA + 0x1_0000  # 12 KiB of zeros
MSRPM = ARENA + 0x1_4000  # 8 KiB of zeros
GUEST_CODE = ARENA + 0x2_0000
GUEST_CODE_SIZE = 0x4000
GUEST_STACK = ARENA + 0x5_0000
GUEST_STACK_TOP = GUEST_STACK + 0x8000
L1_CODE = ARENA + 0x6_0000  # code blobs that L1 runs
L1_CODE_SIZE = 0x8000
USER_STACK_TOP = ARENA + 0x7_8000
TABLES_LONG = ARENA + 0x8_0000
TABLES_PAE = ARENA + 0x9_0000
TABLES_LEGACY = ARENA + 0xA_0000
TABLES_NESTED = ARENA + 0xB_0000  # N_CR3: not L2's own tables, which an L0 that shadows them would write-protect
SVM_OFF_AND_ON = ARENA + 0xB_6000  # L1 code: EFER.SVME cleared and set
TEMPLATES = ARENA + 0xC_0000  # pages uploaded once a boot and copied from
TEMPLATES_SIZE = 0x4_0000
SCRATCH = ARENA + 0x10_0000  # handed out page by page to the running test
SCRATCH_END = ARENA + 0xD0_0000
GUESTS = SCRATCH_END  # a test's further guests, each in slots of its own: VMCB, stack, code
GUESTS_END = ARENA + ARENA_SIZE
GUEST_SLOT = 0x4000

LOW_GUEST = 0x2_0000  # a test's first real-mode guest: CS = DS = ES = SS = 2000h; each further one 64 KiB above
LOW_GUESTS_END = 0x8_0000
LOW_SEGMENT = 0x1_0000
LOW_STACK_TOP = 0xF000  # as an offset in that segment
