"""nRIP counts every byte of the instruction: prefixes, REX, ModRM, SIB, displacement and immediate.

RIP is at the first prefix and nRIP behind the last byte, up to the 15 bytes that an instruction may have
(APM2 15.7.1; APM3 1.2). An L0 that takes an instruction's length from a table, or skips prefixes with a decoder that
does not know them all, or takes 16-bit addressing for 32-bit, makes L1 resume L2 inside the instruction.
"""

from harness import VMEXIT, cases, clause
from suites.nrips.instructions import Insn, around, nrip, raw, saves_next

CPUID = "0f a2"
LEGACY = ["26", "2e", "36", "3e", "64", "65", "66", "67", "f2", "f3"]
REX = ["40", "41", "44", "48", "4f"]
MIXED = ["66 67", "66 66", "f2 66 2e", "f3 67 65 66", "66 f2 f3 67 2e 64"]
MIXED_REX = [
    "66 48",
    "67 4c",
    "f3 64 41",
    "48 66",
    "4f 64 67",
]  # a REX with a prefix behind it counts, and does nothing
PREFIXES = [("long64", prefix) for prefix in LEGACY + REX + MIXED + MIXED_REX]
PREFIXES += [(mode, prefix) for mode in ("prot32", "real16") for prefix in LEGACY + MIXED[-2:]]


@clause("nrips.length.prefixes", "nrips.absent")
@cases("mode, prefix", PREFIXES)
def test_prefixes(l1, mode, prefix):
    """Prefixes that CPUID does not need, one and several."""
    insn = Insn(raw(f"{prefix} {CPUID}"), "cpuid", mode)

    assert saves_next(l1, around(l1, insn), insn)


OTHERS = {
    "66_hlt": Insn(raw("66 f4"), "hlt"),
    "2e_pause": Insn(raw("2e f3 90"), "pause"),
    "f3_66_pause": Insn(raw("f3 66 90"), "pause"),
    "66_pushf": Insn(raw("66 9c"), "pushf"),
    "66_popf-real16": Insn(raw("66 9d"), "popf", "real16"),
    "rex_iret": Insn(raw("48 cf"), "iret"),
    "67_rdtsc": Insn(raw("67 0f 31"), "rdtsc"),
    "rex_rdpmc": Insn(raw("48 0f 33"), "rdpmc"),
    "3e_vmmcall": Insn(raw("3e 0f 01 d9"), "vmmcall"),
    "67_vmsave": Insn(raw("67 0f 01 db"), "vmsave"),
    "67_invlpga": Insn(raw("67 0f 01 df"), "invlpga"),
    "36_wbinvd": Insn(raw("36 0f 09"), "wbinvd"),
    "66_in": Insn(raw("66 e5 80"), "ioio"),
    "66_out-real16": Insn(raw("66 ef"), "ioio", "real16"),
    "67_int": Insn(raw("67 cd 80"), "intn"),
    "66_rsm": Insn(raw("66 0f aa"), "rsm"),
    "66_mov_from_cr0": Insn(raw("66 0f 20 c0"), "cr0_read"),
    "rex_b_mov_from_dr7": Insn(raw("41 0f 21 ff"), "dr7_read"),
    "rex_w_sldt": Insn(raw("48 0f 00 c0"), "sldt"),
    "66_str": Insn(raw("66 0f 00 c8"), "str"),
    "64_67_invlpg-prot32": Insn(raw("64 67 0f 01 3f"), "invlpg", "prot32"),
}


@clause("nrips.length.prefixes", "nrips.absent")
@cases("insn", OTHERS)
def test_prefixes_of_other_instructions(l1, insn):
    """Other opcodes, with prefixes that they need and some that they do not."""
    assert saves_next(l1, around(l1, insn), insn)


# ModRM and what follows it, of INVLPG (0F 01 /7), SIDT (/1) and LGDT (/2).
ADDRESSES = {
    "base": "3b",
    "base_disp8": "7b 7f",
    "base_disp32": "bb 78 56 34 12",
    "rip_or_disp32": "3d 78 56 34 12",
    "rbp_disp8": "7d 00",
    "rbp_disp32": "bd 00 00 00 80",
    "sib": "3c cb",
    "sib_rsp": "3c 24",
    "sib_disp8": "7c cb 80",
    "sib_disp32": "bc cb 44 33 22 11",
    "sib_no_base": "3c cd 44 33 22 11",
    "sib_absolute": "3c 25 44 33 22 11",
    "sib_rbp_disp8": "7c 6d 10",
}
ADDRESSES_16 = {
    "bx_si": "38",
    "bx": "3f",
    "disp16": "3e 34 12",
    "bp_disp8": "7e 10",
    "bp_di_disp16": "bb 34 12",
    "si_disp8": "7c 7f",
    "di_disp16": "bd 34 12",
}
FORMS = {
    **{f"{id}-long64": ("long64", form) for id, form in ADDRESSES.items()},
    **{f"{id}-prot32": ("prot32", form) for id, form in list(ADDRESSES.items())[::2]},
    **{f"{id}-67-real16": ("real16", f"67 {form}") for id, form in list(ADDRESSES.items())[2::3]},
    **{f"{id}-real16": ("real16", form) for id, form in ADDRESSES_16.items()},
    **{f"{id}-67-prot32": ("prot32", f"67 {form}") for id, form in ADDRESSES_16.items()},
    "67_base-long64": ("long64", "67 3b"),
    "67_eip_disp32-long64": ("long64", "67 3d 78 56 34 12"),
    "67_sib_disp32-long64": ("long64", "67 bc cb 44 33 22 11"),
    "rex_sib_disp32-long64": ("long64", "47 bc f5 44 33 22 11"),
    "rex_r12-long64": ("long64", "41 3c 24"),
    "rex_r13_disp8-long64": ("long64", "41 7d 00"),
}


@clause("nrips.length.operands", "nrips.absent")
@cases("mode, form", FORMS)
def test_addressing_forms(l1, mode, form):
    """INVLPG with every form of address: no displacement or one of 8, 16 and 32 bits, SIB, RIP-relative."""
    prefixed = form.split()[0] in ("67", "47", "41")
    prefix, modrm = (form[:2], form[3:]) if prefixed else ("", form)
    insn = Insn(raw(f"{prefix} 0f 01 {modrm}"), "invlpg", mode)

    assert saves_next(l1, around(l1, insn), insn)


STORES = {
    "sidt_sib_disp32": Insn(raw("0f 01 8c cb 44 33 22 11"), "sidt"),
    "sgdt_rip": Insn(raw("0f 01 05 44 33 22 11"), "sgdt"),
    "lidt_disp8": Insn(raw("0f 01 5b 10"), "lidt"),
    "lgdt_67_disp16-prot32": Insn(raw("67 0f 01 16 34 12"), "lgdt", "prot32"),
    "sldt_disp32": Insn(raw("0f 00 83 44 33 22 11"), "sldt"),
    "str_sib": Insn(raw("0f 00 0c 24"), "str"),
    "smsw_disp32": Insn(raw("0f 01 a3 44 33 22 11"), "cr0_read"),
    "lmsw_disp8": Insn(raw("0f 01 73 10"), "cr0_write"),
    "lmsw_disp16-real16": Insn(raw("0f 01 36 34 12"), "cr0_write", "real16"),
    "bound_disp32-prot32": Insn(raw("62 83 00 00 00 00"), "#BR", "prot32", vmcb={"rax": 0x7FFF}),
    "int_imm8": Insn(raw("cd ff"), "intn"),
    "out_imm8": Insn(raw("e7 ff"), "ioio"),
}


@clause("nrips.length.operands", "nrips.absent")
@cases("insn", STORES)
def test_operands_of_other_instructions(l1, insn):
    """Memory operands and immediates of others."""
    assert saves_next(l1, around(l1, insn), insn)


MOD_IGNORED = {
    "mov_rax_cr0_mod0": Insn(raw("0f 20 00"), "cr0_read"),
    "mov_rsp_cr0_mod0": Insn(raw("0f 20 04"), "cr0_read"),
    "mov_rbp_cr3_mod0": Insn(raw("0f 20 1d"), "cr3_read"),
    "mov_rbx_cr4_mod1": Insn(raw("0f 20 63"), "cr4_read"),
    "mov_rbx_cr3_mod2": Insn(raw("0f 20 9b"), "cr3_read"),
    "mov_cr3_rbx_mod0": Insn(raw("0f 22 1b"), "cr3_write"),
    "mov_rax_dr7_mod0": Insn(raw("0f 21 38"), "dr7_read"),
    "mov_dr0_rbx_mod1": Insn(raw("0f 23 43"), "dr0_write"),
    "mov_ebp_cr0_mod0-prot32": Insn(raw("0f 20 05"), "cr0_read", "prot32"),
    "mov_esi_cr0_mod0-real16": Insn(raw("0f 20 06"), "cr0_read", "real16"),
}


@clause("nrips.length.mod_ignored", "nrips.absent")
@cases("insn", MOD_IGNORED)
def test_mod_of_register_moves(l1, insn):
    """MOV to and from CR and DR has three bytes whatever MOD and R/M say: no SIB and no displacement follows."""
    assert saves_next(l1, around(l1, insn), insn)


CODES = {"cpuid": CPUID, "hlt": "f4", "vmmcall": "0f 01 d9"}
LENGTHS = {f"{name}_{length}_bytes": (name, length) for name in CODES for length in (14, 15)[name != "cpuid" :]}


@clause("nrips.length.fifteen_bytes", "nrips.absent")
@cases("mode", ["long64", "compat32", "prot32", "real16"])
@cases("name, length", LENGTHS)
def test_up_to_fifteen_bytes(l1, mode, name, length):
    """Filled up with 66h, which each of these takes any number of times."""
    fill = "66 " * (length - len(bytes.fromhex(CODES[name])))
    insn = Insn(raw(fill + CODES[name]), name, mode)

    assert saves_next(l1, around(l1, insn), insn)


@clause("nrips.length.fifteen_bytes", "nrips.absent")
def test_fifteen_bytes_with_an_address(l1):
    """Seven bytes of opcode and address among them, and a REX."""
    insn = Insn(raw("64 67 66 2e 36 66 41 0f 01 bc f5 44 33 22 11"), "invlpg")

    assert saves_next(l1, around(l1, insn), insn)


@clause("nrips.length.too_long", "nrips.absent")
@cases("mode", ["long64", "prot32", "real16"])
@cases("code", {"cpuid": "66 " * 14 + "0f a2", "hlt": "66 " * 15 + "f4"})
def test_sixteen_bytes(l1, mode, code):
    """One more is #GP, although the instruction is intercepted; of an exception's exit nRIP is 0."""
    guest = l1.guest(f"start: {raw(code)}\nnext: vmmcall", mode=mode, intercept=["cpuid", "hlt"])

    assert guest.run().matches(code=VMEXIT.EXCP_GP, rip=guest["start"], info1=0, nrip=nrip(l1, 0))
