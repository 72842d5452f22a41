"""Probe, to be deleted."""
import pytest
from harness import VMEXIT, clause
SEQ = {"plain": "vmrun", "clgi": "clgi\nvmrun", "sti": "sti\nvmrun\ncli", "clgi-sti": "clgi\nsti\nvmrun\ncli", "clgi-sti-nop":"clgi\nsti\nnop\nnop\nvmrun\ncli", "sti-nop":"sti\nnop\nnop\nvmrun\ncli","movss":"mov ecx, ss\nmov ss, ecx\nvmrun","movss-clgi":"clgi\nmov ecx, ss\nmov ss, ecx\nvmrun"}
@clause("core.load.host_shadow")
@pytest.mark.parametrize("first", ["run", "norun"])
@pytest.mark.parametrize("s", SEQ)
def test_p(l1, s, first):
    guest = l1.guest("start: inc rbx\ninc rbx\nvmmcall", intercept=["vintr"],
        vmcb={"v_irq": 1, "v_intr_prio": 15, "v_intr_vector": 0x50, "rflags": 0x202, "int_state": 0})
    if first == "run":
        exit = guest.run()
        assert exit.matches(code=VMEXIT.VINTR, rip=guest["start"])
    l1.write(guest["start"], guest.code + b"\xcc"*4)
    l1.write(guest.vmcb_pa, bytes(exit.before.data if first=="run" else guest.vmcb.data))
    r = l1.code(SEQ[s], {"rax": guest.vmcb_pa, "rbx": 0x100})
    code = int.from_bytes(l1.read(guest.vmcb_pa + 0x70, 4), "little")
    assert l1.expect(f"code (rbx {r.reg('rbx'):x})", code, VMEXIT.VINTR)
    assert l1.expect("rbx", r.reg("rbx"), 0x100)
