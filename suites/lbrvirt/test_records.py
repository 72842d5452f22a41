"""L2's branches."""

from harness import clause


@clause("lbrvirt.records")
def test_l2s_jump_is_recorded(l1):
    """L2's jump is in the VMCB."""
    guest = l1.guest("jump: jmp there\nnop\nthere: vmmcall", vmcb={"lbr_virt_enable": 1, "dbgctl": 1})

    exit = guest.run()

    assert exit.reached("there", br_from=guest["jump"], br_to=guest["there"])
