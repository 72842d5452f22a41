"""An L2 guest: its code, its VMCB, what L1 does around VMRUN, and the scenario that all this becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.guest import vmrun
from harness.guest.handlers import read_log
from harness.judge.code import CodeResult
from harness.judge.exit import Exit
from harness.scenario import places, steps
from harness.scenario.asm import Assembled
from harness.scenario.scenario import PAGE, Item, Page, Scenario, memory, write_differences
from harness.scenario.steps import RaiseKind, Record, Step, VmrunAnswer
from harness.svm.events import EVENT_VALID
from harness.svm.intercepts import intercept_bit
from harness.svm.templates import OUTPUT_PATTERN, OUTPUT_RANGES
from harness.svm.vmcb import Vmcb

BITS = {"long64": 64, "compat32": 32, "pae32": 32, "paged32": 32, "prot32": 32, "real16": 16}
RUN_ON_GUARD = b"\xcc" * 4  # behind the last code byte: a guest that runs on is seen as exit #BP
JOIN_TIMEOUT_US = 2_000_000
WATCHDOG_US = 200_000  # the executor's own
_NRIP = 0xC8


class Host(Protocol):
    """What a guest needs of its L1."""

    undrained: bool
    watchdog_us: int  # for a VMRUN that sets none; 0 leaves it to the executor
    second_cpu_runs: bool

    def need_cpus(self, count: int) -> None:
        """Raises NotOffered if there are fewer CPUs."""

    def dirty(self, why: str) -> None:
        """State is left behind."""

    def place_code(self, code: str, handlers: Mapping[int, str] | None = None) -> Placed:
        """Assembles L1 code and finds a place for it."""

    def opening(self, cpu: int) -> list[Step]:
        """What the list of steps on another CPU begins with."""

    def restore_step(self) -> Step:
        """A step that has the executor put its own state back."""

    def execute(
        self, scenario: Scenario, deadline_s: float | None = None, *, guest: Guest | None = None
    ) -> list[Record]:
        """Runs a scenario; the answer record of each step."""

    def host_at_vmrun(self, answer: VmrunAnswer, cpu: int) -> Callable[[], Mapping[str, int]]:
        """What asks for the host state of this VMRUN; see Exit.host."""

    def judge(self, exit: Exit, guest: Guest, *, gif_known: bool, probes: bool = True) -> None:
        """Asks the universal checks of an exit."""

    def watchdog_ended(self, what: str) -> None:
        """The watchdog ended L2, though the test did not set one."""


@dataclass(frozen=True)
class Placed:
    """L1 code at its place: the steps that write it, and where its handlers note what they took (0: it has none)."""

    assembled: Assembled
    addr: int
    items: list[Item]
    log: int = 0


@dataclass
class Guest:
    """One L2. Made by `l1.guest()`; see there for what the arguments mean."""

    l1: Host
    assembled: Assembled
    code_base: int
    mode: str
    template: bytes
    vmcb: Vmcb
    regs: dict[str, int]
    vmcb_pa: int = places.VMCB
    stack_top: int = places.GUEST_STACK_TOP  # as RSP has it
    _before: list[Item] = field(default_factory=list)  # written by the first run
    _since: list[Item] = field(default_factory=list)  # what came to it after a run: the next one writes it
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

    @property
    def images(self) -> tuple[bytes, bytes | None]:
        """The VMCB as the next run has it, and as the last exit left it (None before the first run)."""
        return bytes(self.vmcb.data), self._live

    def write(self, addr: int, data: bytes) -> None:
        """Memory to be written by the next run, once."""
        self._write_once(memory(addr, data))

    def tables(self, addr: int, kind: steps.TableKind) -> None:
        """An identity map of the guest's own, made at `addr` by the next run, once (see steps.TABLE_SIZES)."""
        self._write_once([steps.tables(addr, kind)])

    def setup(self, code: str, regs: Mapping[str, int] | None = None) -> None:
        """L1 code to be run before each VMRUN; the state it leaves (MSRs, DR0 to DR7, XMM) stays for VMRUN."""
        placed = self.l1.place_code(code)
        self._write_once(placed.items)
        self._setup.append((steps.code(placed.addr, dict(regs or {}), keep_state=True), placed.assembled))

    def teardown(self, code: str, regs: Mapping[str, int] | None = None) -> None:
        """L1 code to be run after each VMRUN; what it leaves is `exit.teardown`."""
        placed = self.l1.place_code(code)
        self._write_once(placed.items)
        self._teardown = (steps.code(placed.addr, dict(regs or {})), placed.assembled, dict(regs or {}))

    def raise_interrupt(self, vector: int) -> None:
        """A fixed interrupt to L1 itself, raised just before VMRUN while L1 has it masked."""
        self._setup.append((steps.raise_event(RaiseKind.SELF, vector), self.assembled))

    def raise_nmi(self) -> None:
        """An NMI to L1 itself, raised just before VMRUN."""
        self._setup.append((steps.raise_event(RaiseKind.NMI_SELF), self.assembled))

    def rewind(self) -> None:
        """The next run starts over with everything written again."""
        self._live = None

    def resume(self, at: str | None = None, *, run: Mapping[str, Any] | None = None, **fields: int) -> Exit:
        """Runs L2 on from where it stopped, or from the label `at`, with VMCB fields changed (`cs__base` for
        "cs.base"). `run` holds arguments of `run`. Raises RuntimeError before the first run, KeyError for a label or
        field that does not exist.
        """
        if self._live is None:
            raise RuntimeError("this guest did not run yet: there is nothing to resume")
        if at is not None:
            self.vmcb["rip"] = self[at]
        apply_fields(self.vmcb, {name.replace("__", "."): value for name, value in fields.items()})
        return self.run(**dict(run or {}))

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
        probes: bool = True,
        cpu: int = 0,
        read: Mapping[str, tuple[int, int]] | None = None,
        deadline_s: float | None = None,
    ) -> Exit:
        """Runs L2 once and says how it ended.

        The first run writes code, memory and VMCB; a further one resumes with the VMCB as the exit left it, plus what
        was changed in `vmcb` since. `read` names memory to read back afterwards: name -> (address, size).
        `probes=False` leaves out what the executor does for the universal checks: it captures no host state and sends
        itself no interrupt, and the checks that need these are not asked. `cpu=1` makes VMRUN on the second CPU.
        Raises harness.link.session.TargetLost if the target is lost, NotOffered if that CPU is missing.
        """
        flags = vmrun.vmrun_flags(
            vmload=vmload, vmsave=vmsave, clgi=clgi, stgi=stgi, host_if=host_if, host_tf=host_tf, drain=drain,
            keep_hidden=keep_hidden, probes=probes,
        )  # fmt: skip
        self.l1.need_cpus(cpu + 1)
        if host_tf:
            self.l1.dirty("host RFLAGS.TF was set across VMRUN")
        if cpu == 0:
            self.l1.undrained = not (drain and stgi)
        reads = dict(read or {})
        loaded = self._loaded()
        limit_us = watchdog_us or self.l1.watchdog_us
        around = [step for step, _ in self._setup]
        at = len(around)
        around.append(steps.vmrun(self.vmcb_pa if rax is None else rax, flags, loaded, limit_us))
        if self._teardown:
            around.append(self._teardown[0])
        reading = [steps.mem_read(addr, size, name) for name, (addr, size) in reads.items()]
        restoring = [self.l1.restore_step()] if self._setup and not self._teardown else []
        items: list[Item] = self._memory_items()
        written = sum(isinstance(item, Step) for item in items)  # pages are answered by nothing
        opening = self.l1.opening(cpu)
        if cpu:
            join = steps.cpu_join(cpu, JOIN_TIMEOUT_US + (limit_us or WATCHDOG_US))
            items += [steps.cpu_start(cpu, [*opening, *around, *restoring]), join, *reading]
        else:
            items += [*around, *reading, *restoring]
        before, first = Vmcb(bytearray(self.vmcb.data)), self._live is None
        records = self.l1.execute(Scenario(items), deadline_s, guest=self)[written:]
        if cpu:
            inner = vmrun.answered_by(records[1], len(opening) + len(around) + len(restoring))[len(opening) :]
            records = [*inner[: len(around)], *records[2:]]
        answer = steps.decode_vmrun(records[at])
        teardown = None
        if self._teardown:
            teardown = CodeResult(steps.decode_code(records[at + 1]), self._teardown[1], self._teardown[2])
        memory = vmrun.memory_of(records[len(around) : len(around) + len(reading)], list(reads))
        exit = Exit(
            before, vmrun.vmcb_after(before, answer), answer, loaded, memory, teardown, vmsave,
            labels=self.assembled.labels, host_at_vmrun=self.l1.host_at_vmrun(answer, cpu),
            vmcb_known=rax in (None, self.vmcb_pa) and not self.l1.second_cpu_runs,
        )  # fmt: skip
        return self._ended(exit, first=first, gif_known=clgi, probes=probes, asked=bool(watchdog_us))

    def run_in(
        self,
        code: str,
        regs: Mapping[str, int] | None = None,
        *,
        interrupts: bool = False,
        handlers: Mapping[int, str] | None = None,
        watchdog_ms: int = 0,
        read: Mapping[str, tuple[int, int]] | None = None,
        deadline_s: float | None = None,
    ) -> Exit:
        """Runs L1 code at CPL 0 that makes VMRUN itself, with RAX its operand: nothing of the executor's lies between
        the code and L2. `exit.l1` is what came of the code, with its labels, registers and the interrupts it took.

        The other registers are the guest's, then those of `regs`. There is no CLGI, VMLOAD or STGI but the code's own.
        `interrupts` sets RFLAGS.IF. `handlers` gives vectors L1 code of their own (see harness.guest.handlers);
        what they took is `exit.l1.taken`. The universal checks that look at the VMCB alone are asked.
        """
        placed = self.l1.place_code(code, handlers)
        reads = dict(read or {})
        loaded = self._loaded()
        limit_ms = watchdog_ms or (self.l1.watchdog_us or WATCHDOG_US) // 1000
        registers = vmrun.registers_for(loaded | dict(regs or {}), self.vmcb_pa)
        items: list[Item] = [*self._memory_items(), *placed.items]
        written = sum(isinstance(item, Step) for item in items)
        items.append(steps.code(placed.addr, registers, interrupts=interrupts, watchdog_ms=limit_ms))
        items.append(steps.mem_read(self.vmcb_pa, PAGE, "VMCB"))
        items += [steps.mem_read(addr, size, name) for name, (addr, size) in reads.items()]
        if placed.log:
            items.append(steps.mem_read(placed.log, PAGE, "handlers"))
        before, first = Vmcb(bytearray(self.vmcb.data)), self._live is None
        records = self.l1.execute(Scenario(items), deadline_s, guest=self)[written:]
        taken = read_log(records[-1].body) if placed.log else []
        ran = CodeResult(steps.decode_code(records[0]), placed.assembled, registers, None, taken)
        answer = vmrun.answer_of_code(ran, placed.addr, before, records[1].body)
        memory = vmrun.memory_of(records[2 : 2 + len(reads)], list(reads))
        after = Vmcb(bytearray(records[1].body))
        labels = self.assembled.labels
        exit = Exit(before, after, answer, loaded, memory, l1=ran, labels=labels, vmcb_known=False)
        return self._ended(exit, first=first, gif_known=False, probes=False, asked=bool(watchdog_ms))

    def _ended(self, exit: Exit, *, first: bool, gif_known: bool, probes: bool, asked: bool) -> Exit:
        if first or self._live is not None:
            self._live = bytes(exit.vmcb.data)
            self.vmcb = Vmcb(bytearray(exit.vmcb.data))
        limit_us = self.l1.watchdog_us or WATCHDOG_US
        if not asked and (what := vmrun.unasked_end(exit, limit_us)):
            self.l1.watchdog_ended(what)
        self.l1.judge(exit, self, gif_known=gif_known, probes=probes)
        return exit

    def _write_once(self, items: Iterable[Item]) -> None:
        items = list(items)
        self._before += items
        if self._live is not None:
            self._since += items

    def _loaded(self) -> dict[str, int]:
        return {name: value for name, value in self.regs.items() if name not in ("rax", "rsp")}

    def _memory_items(self) -> list[Item]:
        items: list[Item] = []
        if self.vmcb["cr3"] & ~0xFFF == places.TABLES_PAE:
            # QEMU sets the accessed bit in the four pointers, for which an L0 would refuse the next VMRUN.
            items.append(steps.tables(places.TABLES_PAE, steps.TableKind.PAE))
        if self._live is None:
            items += self._before
            self._since = []
            items += steps.mem_write(self.code_base, self.code + RUN_ON_GUARD)
            items.append(Page(self.vmcb_pa, bytes(self.vmcb.data), self.template))
            return items
        items += self._since
        self._since = []
        nrip = self.vmcb["nrip"]
        for start, size in OUTPUT_RANGES[:-1]:  # the last one is the LBR block, which a resumed guest may have filled
            if start == _NRIP and self.vmcb["eventinj"] & EVENT_VALID:
                continue  # an injected software interrupt returns to it: it is L1's here
            self.vmcb.data[start : start + size] = bytes([OUTPUT_PATTERN]) * size
        if self.vmcb["eventinj"] & EVENT_VALID:
            self.vmcb["nrip"] = nrip  # where an injected INTn, INT3 or INTO returns to (APM2 15.20)
        return items + list(write_differences(self.vmcb_pa, self._live, bytes(self.vmcb.data)))


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
