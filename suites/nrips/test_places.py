"""nRIP where addresses end: at a page, at 64 KiB, at 4 GiB, at the canonical edge, and with a CS that has a base.

nRIP is an rIP, what a #DB would push: without CS.base, and only an address, whether anything is there or not
(APM2 15.7.1). In 16-bit and 32-bit code EIP is a 32-bit register, and IP is not cut to 16 bits by running on; what is
saved behind the last byte of the space, the APM does not say. An L0 that reads the instruction again to count its bytes
faults on its second page, or forgets CS.base; one that computes in 32 bits cuts addresses above 4 GiB.
"""

from harness import CR0, VMEXIT, any_of, cases, clause, sign_extended
from harness.svm.paging import LongTables
from suites.lib.nested_maps import nested_guest
from suites.nrips.instructions import nrip

CPUID = b"\x0f\xa2"
LONG_CPUID = b"\x66" * 13 + CPUID
LOW_BYTES = 0x180_0000  # what holds L2's stack and tables
TABLE_PAGES = 8
AT_4G, CANONICAL_EDGE, TOP = 1 << 32, 1 << 47, 1 << 64


def at(l1, address, data, mode="long64", **options):
    """A guest that begins with `data` at that linear address, and the page of its first byte and the one behind it."""
    pages, own = l1.scratch(2), l1.scratch(TABLE_PAGES)
    guest = l1.guest("vmmcall", mode=mode, intercept=["cpuid"], **options)
    tables = LongTables(own, own + TABLE_PAGES * 0x1000)
    tables.identity(LOW_BYTES)
    linear = address & (1 << 48) - 1
    first = linear & ~0xFFF
    for number, page in enumerate((first, (first + 0x1000) & (1 << 48) - 1)):
        if page != 1 << 47:  # beyond the canonical edge there is nothing to map
            tables.map(page, pages + number * 0x1000)
    for where, page in tables.pages().items():
        guest.write(where, page)
    guest.write(pages + linear % 0x1000, data)
    guest.vmcb.update({"cr3": own, "rip": address})
    return guest


ENDS = {
    f"{len(code)}_bytes_{before}_before": (code, before)
    for code, before in [(CPUID, 1), (CPUID, 2), *((LONG_CPUID, before) for before in (1, 8, 14, 15))]
}


@clause("nrips.places.pages", "nrips.absent")
@cases("mode", ["long64", "pae32", "real16"])
@cases("code, before", ENDS)
def test_at_the_end_of_a_page(l1, mode, code, before):
    """Some bytes in one page and the rest in the next, or none."""
    guest = l1.guest("vmmcall", mode=mode, intercept=["cpuid"])
    base = guest.code_base if mode == "real16" else 0
    start = (0x4000 if mode == "real16" else l1.scratch(2)) + 0x1000 - before
    guest.write(base + start, code)
    guest.vmcb["rip"] = start

    assert guest.run().matches(code=VMEXIT.CPUID, rip=start, nrip=nrip(l1, start + len(code)))


@clause("nrips.places.page_that_is_missing", "nrips.absent")
@cases("code", {"cpuid": CPUID, "15_bytes": LONG_CPUID})
def test_the_next_page_is_missing(l1, code):
    """The last byte is the page's last: nRIP is an address in a page that the nested tables do not have."""
    l1.need("NP")
    pages = l1.scratch(2)
    start = pages + 0x1000 - len(code)
    guest, nested = nested_guest(l1, "vmmcall", intercept=["cpuid"], vmcb={"rip": start})
    guest.write(start, code)
    nested.set(pages + 0x1000, 0)

    assert guest.run().matches(code=VMEXIT.CPUID, rip=start, nrip=nrip(l1, pages + 0x1000))


@clause("nrips.places.beyond_4g", "nrips.absent")
@cases(
    "start", {"ends_at_4g": AT_4G - 2, "crosses_4g": AT_4G - 1, "behind_4g": AT_4G + 0x10, "high_half": TOP - 0x1000}
)
def test_64_bit_addresses(l1, start):
    """64-bit code runs on across 4 GiB, and nRIP has all 64 bits."""
    guest = at(l1, start, CPUID)

    assert guest.run().matches(code=VMEXIT.CPUID, rip=start, nrip=nrip(l1, start + 2))


@clause("nrips.places.wraps_at_2_64", "nrips.absent")
@cases("start", {"ends_at_2_64": TOP - 2, "crosses_2_64": TOP - 1})
def test_top_of_the_64_bit_space(l1, start):
    """Behind the last byte of the space comes address 0, where L2 has a page."""
    guest = at(l1, start, CPUID)

    assert guest.run().matches(code=VMEXIT.CPUID, rip=start, nrip=nrip(l1, start + 2 - TOP))


@clause("nrips.places.canonical_edge", "nrips.absent")
def test_last_bytes_of_the_lower_half(l1):
    """The next address is not canonical: the sum, or its canonical form."""
    start = CANONICAL_EDGE - 2
    guest = at(l1, start, CPUID)

    edge = any_of(CANONICAL_EDGE, sign_extended(CANONICAL_EDGE))
    assert guest.run().matches(code=VMEXIT.CPUID, rip=start, nrip=nrip(l1, edge))


@clause("nrips.places.end_of_eip", "nrips.absent")
@cases("mode", ["compat32", "prot32"])
def test_last_bytes_of_32_bit_code(l1, mode):
    """EIP is FFFF_FFFEh: 0, or the sum in 64 bits. Without paging CS.base leads there, around 4 GiB."""
    start = AT_4G - 2
    if mode == "compat32":
        guest = at(l1, start, CPUID, mode)
    else:
        guest = l1.guest("cpuid\nvmmcall", mode=mode, intercept=["cpuid"], vmcb={"rip": start})
        guest.vmcb["cs.base"] = guest.code_base + 2

    assert guest.run().matches(code=VMEXIT.CPUID, rip=start, nrip=nrip(l1, any_of(0, AT_4G)))


@clause("nrips.places.end_of_ip", "nrips.absent")
@cases("protected", [False, True])
def test_last_bytes_of_a_64k_segment(l1, protected):
    """IP is FFFEh, in real mode and in a 16-bit protected segment: 1_0000h, or cut to 16 bits."""
    guest = l1.guest("vmmcall", mode="real16", intercept=["cpuid"], vmcb={"rip": 0xFFFE})
    guest.write(guest.code_base + 0xFFFE, CPUID)
    guest.vmcb["cr0"] |= CR0.PE * protected

    assert guest.run().matches(code=VMEXIT.CPUID, rip=0xFFFE, nrip=nrip(l1, any_of(0x1_0000, 0)))


@clause("nrips.places.ip_beyond_64k", "nrips.absent")
@cases("start", {"crosses_64k": 0xFFFF, "at_64k": 0x1_0000, "behind_64k": 0x1_2340})
@cases("protected", [False, True])
def test_16_bit_code_beyond_64k(l1, start, protected):
    """With a limit of 4 GiB ("unreal mode") 16-bit code runs on: EIP keeps its upper bits, and so does nRIP."""
    guest = l1.guest("vmmcall", mode="real16", intercept=["cpuid"], vmcb={"rip": start, "cs.limit": 0xFFFF_FFFF})
    guest.write(guest.code_base + start, CPUID)
    guest.vmcb["cr0"] |= CR0.PE * protected

    assert guest.run().matches(code=VMEXIT.CPUID, rip=start, nrip=nrip(l1, start + 2))


BASES = [("real16", 0x2_0000), ("prot16", 0x2_0000), ("prot32", 0x1000), ("compat32", 0x4000), ("long64", 0x1000)]


@clause("nrips.places.no_base", "nrips.absent")
@cases("mode, base", BASES)
def test_base_of_cs_is_not_in_it(l1, mode, base):
    """RIP and nRIP count from CS.base; 64-bit code has none, whatever the field holds."""
    guest = l1.guest("nop\nstart: cpuid\nnext: vmmcall", mode="real16" if "16" in mode else mode, intercept=["cpuid"])
    guest.vmcb["cr0"] |= CR0.PE * (mode == "prot16")
    shift = base if mode in ("prot32", "compat32") else 0
    guest.vmcb.update({"cs.base": base, "rip": guest.vmcb["rip"] - shift})

    exit = guest.run()

    assert exit.matches(code=VMEXIT.CPUID, rip=guest["start"] - shift, nrip=nrip(l1, guest["next"] - shift))
