"""Instructions that an L0 may carry out in software: the first one of an L2 whose tables are its nested tables, too.

An L0 that shadows the nested tables write-protects them. The walk for L2's first fetch wants to set accessed bits
there, and KVM then emulates the instruction whole. On hardware nothing is special about it (APM2 15.25.5).
"""

from suites.lib.nested_maps import share_tables


def emulated(l1, code, **options):
    """A long-mode guest under nested paging, whose first instruction may be emulated. Needs NP."""
    guest = l1.guest(code, np=True, **options)
    share_tables(l1, guest)
    return guest
