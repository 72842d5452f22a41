"""An L2 guest: its code, its VMCB, what L1 does around VMRUN, and the scenario that all this becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.judge.code import CodeResult
from harness.judge.exit import Exit
from harness.scenario import places, steps
from harness.scenario.asm import Assembled
from harness.scenario.scenario import PAGE, Item, Page, Scenario, memory, write_differences
from harness.scenario.steps import RaiseKind, Record, Step, VmrunFlag
from harness.svm.intercepts import intercept_bit
from harness.svm.templates import OUTPUT_PATTERN, OUTPUT_RANGES
from harness.svm.vmcb import Vmcb

if TYPE_CHECKING:
    from harness.guest.l1 import L1

BITS = {"long64": 64, "compat32": 32, "pae32": 32, "paged32": 32, "prot32": 32, "real16": 16}
RUN_ON_GUARD = b"\xcc" * 4  # behind the last code byte: a guest that runs on is seen as exit #BP


@dataclass
class Guest:
    """One L2. Made by `l1.guest()`; see there for what the arguments mean."""

    l1: L1
    assembled: Assembled
    code_base: int
    mode: str
    template: bytes
    vmcb: Vmcb
    regs: dict[str, int]
    vmcb_pa: int = places.VMCB
    _before: list[Item] = field(default_factory=list)
    _setup: list[tuple[Step, Assembled]] = field(default_factory=list)
    _teardown: tuple[Step, Assembled, Mapping[str, int]] | None = None
    _live: bytes | None = None

    def __getitem__(self, label: str) -> int:
        """The address of a label, as the guest's RIP shows it. Raises KeyError."""
        return self.assembled.labels[label]

    @property
    def code(self) -> bytes:
        """The guest's code bytes."""
        return self.assembled.code

    def write(self, addr: int, data: bytes) -> None:
        """Memory to be written before the first run."""
        self._before += memory(addr, data)

    def tables(self, addr: int, kind: steps.TableKind) -> None:
        """An identity map of the guest's own, made at `addr` before the first run (see steps.TABLE_SIZES)."""
        self._before.append(steps.tables(addr, kind))

    def setup(self, code: str, regs: Mapping[str, int] | None = None) -> None:
        """L1 code to be run before each VMRUN; the state it leaves (MSRs, DR0 to DR7, XMM) stays for VMRUN."""
        assembled, addr, items = self.l1.place_code(code)
        self._before += items
        self._setup.append((steps.code(addr, dict(regs or {}), keep_state=True), assembled))

    def teardown(self, code: str, regs: Mapping[str, int] | None = None) -> None:
        """L1 code to be run after each VMRUN; what it leaves is `exit.teardown`."""
        assembled, addr, items = self.l1.place_code(code)
        self._before += items
        self._teardown = (steps.code(addr, dict(regs or {})), assembled, dict(regs or {}))

    def raise_interrupt(self, vector: int) -> None:
        """A fixed interrupt to L1 itself, raised just before VMRUN while L1 has it masked."""
        self._setup.append((steps.raise_event(RaiseKind.SELF, vector), self.assembled))

    def raise_nmi(self) -> None:
        """An NMI to L1 itself, raised just before VMRUN."""
        self._setup.append((steps.raise_event(RaiseKind.NMI_SELF), self.assembled))

    def rewind(self) -> None:
        """The next run starts over with everything written anew."""
        self._live = None

    def run(
        self,
        *,
        vmload: bool = False,
        vmsave: bool = False,
        clgi: bool = True,
        stgi: bool = True,
        host_if: bool = True,
        host_tf: bool = False,
        rax: int | None = None,
        drain: bool = True,
        keep_hidden: bool = False,
        watchdog_us: int = 0,
        read: Mapping[str, tuple[int, int]] | None = None,
        deadline_s: float | None = None,
    ) -> Exit:
        """Runs L2 once and says how it ended.

        The first run writes code, memory and VMCB; a further one resumes with the VMCB as the exit left it, plus
        what was
        changed in `vmcb` since. `read` names memory to read back afterwards: name -> (address, size).
        Raises harness.link.session.TargetLost if the target is lost.
        """
        flags = _flags(
            vmload=vmload, vmsave=vmsave, clgi=clgi, stgi=stgi, host_if=host_if, host_tf=host_tf, drain=drain
        )
        if keep_hidden:
            flags |= VmrunFlag.KEEP_HIDDEN
        if host_tf:
            self.l1.dirty("host RFLAGS.TF was set across VMRUN")
        self.l1.undrained = not (drain and stgi)
        reads = dict(read or {})
        loaded = {name: value for name, value in self.regs.items() if name not in ("rax", "rsp")}
        items: list[Item] = self._memory_items()
        if self.vmcb["cr3"] & ~0xFFF == places.TABLES_PAE:
            # QEMU sets the accessed bit in the four pointers, for which an L0 would refuse the next VMRUN.
            items.insert(0, steps.tables(places.TABLES_PAE, steps.TableKind.PAE))
        first = self._live is None
        items += [step for step, _ in self._setup]
        items.append(steps.vmrun(self.vmcb_pa if rax is None else rax, flags, loaded, watchdog_us))
        vmrun_at = sum(isinstance(item, Step) for item in items) - 1  # pages are answered by nothing
        if self._teardown:
            items.append(self._teardown[0])
        items += [steps.mem_read(addr, size, name) for name, (addr, size) in reads.items()]
        if self._setup and not self._teardown:
            items.append(self.l1.restore_step())
        before = Vmcb(bytearray(self.vmcb.data))
        records = self.l1.execute(Scenario(items), deadline_s, guest=self)
        exit = self._exit(records, vmrun_at, before, loaded, list(reads), vmsave)
        if first or self._live is not None:
            self._live = bytes(exit.vmcb.data)
            self.vmcb = Vmcb(bytearray(exit.vmcb.data))
        self.l1.judge(exit, self, gif_known=clgi)
        return exit

    def _memory_items(self) -> list[Item]:
        if self._live is None:
            items: list[Item] = list(self._before)
            items += steps.mem_write(self.code_base, self.code + RUN_ON_GUARD)
            items.append(Page(self.vmcb_pa, bytes(self.vmcb.data), self.template))
            return items
        for start, size in OUTPUT_RANGES[:-1]:  # the last one is the LBR block, which a resumed guest may have filled
            self.vmcb.data[start : start + size] = bytes([OUTPUT_PATTERN]) * size
        return list(write_differences(self.vmcb_pa, self._live, bytes(self.vmcb.data)))

    def _exit(
        self,
        records: list[Record],
        vmrun_at: int,
        before: Vmcb,
        loaded: Mapping[str, int],
        reads: list[str],
        vmsaved: bool,
    ) -> Exit:
        answer = steps.decode_vmrun(records[vmrun_at])
        after = bytearray(before.data)
        for offset, data in answer.differences:
            after[offset : offset + len(data)] = data
        at = vmrun_at + 1
        teardown = None
        if self._teardown:
            teardown = CodeResult(steps.decode_code(records[at]), self._teardown[1], self._teardown[2])
            at += 1
        memory = {name: records[at + n].body for n, name in enumerate(reads)}
        return Exit(before, Vmcb(after), answer, loaded, memory, teardown, vmsaved)


def _flags(
    *, vmload: bool, vmsave: bool, clgi: bool, stgi: bool, host_if: bool, host_tf: bool, drain: bool
) -> VmrunFlag:
    flags = VmrunFlag.NONE
    for wanted, flag in (
        (vmload, VmrunFlag.VMLOAD),
        (vmsave, VmrunFlag.VMSAVE),
        (not clgi, VmrunFlag.NO_CLGI),
        (not stgi, VmrunFlag.NO_STGI),
        (host_if, VmrunFlag.IF),
        (host_tf, VmrunFlag.TF),
        (not drain, VmrunFlag.NO_DRAIN),
    ):
        if wanted:
            flags |= flag
    return flags


def apply_intercepts(vmcb: Vmcb, add: Iterable[str], remove: Iterable[str]) -> None:
    """Sets and clears intercepts by name (harness.svm.INTERCEPTS). Raises KeyError for a name that does not exist."""
    for names, value in ((add, 1), (remove, 0)):
        for name in names:
            field_name, bit = intercept_bit(name)
            vmcb[field_name] = vmcb[field_name] & ~(1 << bit) | value << bit


def apply_fields(vmcb: Vmcb, fields: Mapping[str, int]) -> None:
    """Sets VMCB fields by name. Raises KeyError for a name that does not exist."""
    for name, value in fields.items():
        vmcb[name] = value


__all__ = ["BITS", "PAGE", "Guest", "apply_fields", "apply_intercepts"]
