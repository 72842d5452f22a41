"""TLB_CONTROL 03h and 07h: the translations of the VMCB's own ASID.

03h drops all of them, global pages and what nested tables gave too; 07h drops those of L2's own tables that are not
global, and is not enough after a change of the nested tables (APM2 15.16.1). The field is L1's: it counts at each VMRUN
for as long as it stands there. An L0 that runs L1's guests under one ASID of its own flushes the wrong one, or L1's;
one that clears the field for L1 loses every later flush. Without FlushByAsid both values mean nothing that the manual
says: KVM refused such a VMCB for two years, and broke VMware.
"""

from harness import any_of, cases, clause, unchanged
from suites.lib.needs import need_two_asids
from suites.lib.tlb_maps import AT_HERE, AT_THERE, GLOBAL, HERE, THERE, FarPage, far_guest, read_byte

MODES = ("long64", "compat32", "pae32", "paged32")
FLAGS = {"plain": 0, "global": GLOBAL}


def again(mode):
    """L2 reads the byte in its far page."""
    return f"again: mov al, [{'rbx' if mode == 'long64' else 'ebx'}]\nend: vmmcall"


def byte_at(exit):
    """The byte that L2 has read, once it came to its end."""
    assert exit.reached("end")
    return read_byte(exit)


def turned(l1, control, *, mode="long64", flags=0, np=False, asid=1):
    """L2 reads; L1 turns the entry of L2's tables; L2 reads again, with that TLB_CONTROL."""
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, again(mode), mode, flags=flags, np=np)
    guest.vmcb["asid"] = asid
    assert l1.expect("the byte that L2 reads first", byte_at(guest.run()), AT_HERE, width_bytes=1)
    far.turn(l1)
    return byte_at(guest.resume("again", tlb_control=control))


@clause("flushbyasid.asid")
@cases("np", [False, True])
@cases("flags", FLAGS)
@cases("mode", MODES)
def test_all_of_the_asid(l1, mode, flags, np):
    """L2's own entry, plain or global."""
    byte = turned(l1, 3, mode=mode, flags=flags, np=np)

    assert l1.expect("the byte after the flush", byte, AT_THERE, width_bytes=1)


@clause("flushbyasid.non_global")
@cases("np", [False, True])
@cases("mode", MODES)
def test_non_global_entries(l1, mode, np):
    """07h drops what is not global."""
    byte = turned(l1, 7, mode=mode, np=np)

    assert l1.expect("the byte after the flush", byte, AT_THERE, width_bytes=1)


@clause("flushbyasid.global_may_stay")
@cases("np", [False, True])
def test_global_entry(l1, np):
    """07h may leave a global one, or drop it. 03h then drops it."""
    byte = turned(l1, 7, flags=GLOBAL, np=np)
    assert l1.expect("the byte after 07h", byte, any_of(AT_HERE, AT_THERE), width_bytes=1)

    exit = l1.guests[0].resume("again", tlb_control=3)

    assert l1.expect("the byte after 03h", byte_at(exit), AT_THERE, width_bytes=1)


@clause("flushbyasid.which_asid")
@cases("control", [3, 7])
@cases("which", ["first", "second", "middle", "last"])
def test_asid_of_the_vmcb(l1, which, control):
    """Whichever ASID the VMCB has."""
    need_two_asids(l1)
    last = l1.cpuid.nasid - 1
    asid = {"first": 1, "second": 2, "middle": max(1, last // 2), "last": last}[which]

    byte = turned(l1, control, asid=asid)

    assert l1.expect(f"the byte that ASID {asid} reads", byte, AT_THERE, width_bytes=1)


@clause("flushbyasid.which_asid")
@cases("np", [False, True])
@cases("control", [3, 7])
def test_two_asids_take_turns(l1, control, np):
    """Each has tables of its own; the entry of one is turned before each of its turns, and only that one is flushed."""
    need_two_asids(l1)
    if np:
        l1.need("NP")
    guest, mine = far_guest(l1, again("long64"), np=np)
    other = FarPage(l1)
    other.place(guest, target=THERE)
    last = l1.cpuid.nasid - 1
    assert l1.expect("the byte that ASID 1 reads", byte_at(guest.run()), AT_HERE, width_bytes=1)
    for turn in range(4):
        page, byte = ((THERE, AT_THERE), (HERE, AT_HERE))[turn % 2]
        mine.turn(l1, page)
        exit = guest.resume("again", asid=1, cr3=mine.base, tlb_control=control)
        assert l1.expect("the byte that ASID 1 reads", byte_at(exit), byte, width_bytes=1)
        exit = guest.resume("again", asid=last, cr3=other.base, tlb_control=0)
        assert l1.expect("the byte that the last ASID reads", byte_at(exit), AT_THERE, width_bytes=1)


@clause("flushbyasid.each_vmrun")
@cases("control", [1, 3, 7])
def test_each_vmrun_flushes(l1, control):
    """The field stays as it is over six runs; L1 turns the entry before each."""
    if control != 1:
        l1.need("FlushByAsid")
    guest, far = far_guest(l1, again("long64"))
    assert l1.expect("the byte that L2 reads first", byte_at(guest.run()), AT_HERE, width_bytes=1)
    guest.vmcb["tlb_control"] = control
    for turn in range(6):
        page, byte = ((THERE, AT_THERE), (HERE, AT_HERE))[turn % 2]
        far.turn(l1, page)
        exit = guest.resume("again")
        assert exit.reached("end", tlb_control=unchanged)
        assert l1.expect(f"the byte in run {turn + 2}", read_byte(exit), byte, width_bytes=1)


@clause("flushbyasid.flush_all_stays")
@cases("np", [False, True])
@cases("flags", FLAGS)
def test_flush_of_all_reaches_other_asids(l1, flags, np):
    """ASID 2 runs with 01h; ASID 1, which had read the page before L1 turned the entry, then runs without a flush."""
    need_two_asids(l1)
    if np:
        l1.need("NP")
    guest, far = far_guest(l1, again("long64"), flags=flags, np=np)
    assert l1.expect("the byte that ASID 1 reads", byte_at(guest.run()), AT_HERE, width_bytes=1)
    far.turn(l1)
    assert guest.resume("end", asid=2, tlb_control=1).reached("end")

    exit = guest.resume("again", asid=1, tlb_control=0)

    assert l1.expect("the byte that ASID 1 reads", byte_at(exit), AT_THERE, width_bytes=1)


@clause("flushbyasid.absent")
@cases("np", [False, True])
@cases("control", [3, 7])
def test_values_that_are_not_offered(l1, control, np):
    """VMRUN is not refused; L0 flushes or does not. 01h then flushes."""
    byte = turned(l1, control, np=np)
    assert l1.expect("the byte that L2 reads", byte, any_of(AT_HERE, AT_THERE), width_bytes=1)

    exit = l1.guests[0].resume("again", tlb_control=1)

    assert l1.expect("the byte after 01h", byte_at(exit), AT_THERE, width_bytes=1)


# 05Dh: with ERAPS its two low bits have a meaning.
UPPER = {"05dh": 0x5D, "05eh": 0x5E, "05fh": 0x5F, "all": None}


@clause("flushbyasid.upper_bytes")
@cases("control", [0, 1, 3])
@cases("where", UPPER)
def test_reserved_bytes_behind_the_field(l1, where, control):
    """All ones there: refused, or the byte at 05Ch means what it always does."""
    if control == 3:
        l1.need("FlushByAsid")
    guest, far = far_guest(l1, again("long64"))
    assert l1.expect("the byte that L2 reads first", byte_at(guest.run()), AT_HERE, width_bytes=1)
    for offset in [0x5D, 0x5E, 0x5F] if where is None else [where]:
        guest.vmcb.data[offset] = 0xFC if offset == 0x5D and l1.cpuid.has("ERAPS") else 0xFF
    far.turn(l1)

    exit = guest.resume("again", tlb_control=control)

    expected = any_of(AT_HERE, AT_THERE) if control == 0 else AT_THERE
    assert exit.is_invalid or l1.expect("the byte that L2 reads", byte_at(exit), expected, width_bytes=1)
