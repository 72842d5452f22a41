"""One VMRUN of a guest: what the executor is asked for, and the Exit that its answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.judge.code import CodeResult
from harness.judge.exit import Exit
from harness.link.session import ExecutorRefused
from harness.scenario import steps
from harness.scenario.scenario import differing_runs
from harness.scenario.steps import GPR_FILL, GPR_NAMES, Phase, Record, Status, VmrunAnswer, VmrunFlag, VmrunResult
from harness.svm.vmcb import Vmcb

VMRUN_BYTES = b"\x0f\x01\xd8"


def vmrun_flags(
    *, vmload: bool, vmsave: bool, clgi: bool, stgi: bool, host_if: bool, host_tf: bool, drain: bool,
    keep_hidden: bool, probes: bool,
) -> VmrunFlag:  # fmt: skip
    """The step's flags (docs/link-protocol.md, VMRUN)."""
    flags = VmrunFlag.NONE
    for wanted, flag in (
        (vmload, VmrunFlag.VMLOAD),
        (vmsave, VmrunFlag.VMSAVE),
        (not clgi, VmrunFlag.NO_CLGI),
        (not stgi, VmrunFlag.NO_STGI),
        (host_if, VmrunFlag.IF),
        (host_tf, VmrunFlag.TF),
        (not drain, VmrunFlag.NO_DRAIN),
        (keep_hidden, VmrunFlag.KEEP_HIDDEN),
        (not probes, VmrunFlag.NO_GIF_PROBE | VmrunFlag.NO_HOST_STATE),
    ):
        if wanted:
            flags |= flag
    return flags


def answered_by(joined: Record, count: int) -> list[Record]:
    """The answers of a list that another CPU ran. Raises ExecutorRefused if it did not come to its end."""
    inner = steps.split_records(joined.body)
    refused = next((record for record in inner if record.status not in (Status.OK, Status.FAULT)), None)
    if refused is not None or len(inner) != count:
        why = f"{refused.op.name}: {refused.status.name}" if refused else f"{len(inner)} of {count} steps were answered"
        raise ExecutorRefused(f"on the second CPU, {why}")
    return inner


def vmcb_after(before: Vmcb, answer: VmrunAnswer) -> Vmcb:
    """The VMCB as the answer says that it is now."""
    after = bytearray(before.data)
    for offset, data in answer.differences:
        after[offset : offset + len(data)] = data
    return Vmcb(after)


def registers_for(regs: Mapping[str, int], vmcb_pa: int) -> dict[str, int]:
    """All registers of L1 code that makes VMRUN itself: the operand in RAX, the guest's, and the fill of the rest."""
    filled = {name: GPR_FILL + number for number, name in enumerate(GPR_NAMES) if name != "rsp"}
    return filled | dict(regs) | {"rax": vmcb_pa}


def answer_of_code(ran: CodeResult, code_at: int, before: Vmcb, after: bytes) -> VmrunAnswer:
    """What a VMRUN step would have answered, as far as L1 code that ran VMRUN itself can say."""
    events, result = list(ran.events), VmrunResult.WATCHDOG if ran.answer.watchdog else VmrunResult.NONE
    fault = ran.fault
    if fault is not None and ran.assembled.code[fault.rip - code_at :][:3] == VMRUN_BYTES:
        result |= VmrunResult.FAULTED
        events.insert(0, replace(fault, phase=Phase.VMRUN))
    runs = differing_runs(bytes(before.data), after)
    changed = [(start, after[start:end]) for start, end in runs]
    return VmrunAnswer(result, 0, dict(ran.answer.registers), events, changed)


def unasked_end(exit: Exit, watchdog_us: int) -> str | None:
    """What to say of an L2 that the watchdog ended, though the test did not set one; None for any other exit."""
    if not exit.by_watchdog:
        return None
    return (
        f"the watchdog ended L2 after {watchdog_us // 1000} ms, at RIP {exit.rip:#x}: L2 runs for ever, or the machine "
        "was too busy to run it"
    )


def memory_of(records: Sequence[Record], names: Sequence[str]) -> dict[str, bytes]:
    """What MEM_READs read, by the names the test gave them."""
    return {name: record.body for name, record in zip(names, records, strict=True)}
