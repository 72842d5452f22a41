"""The `l1` fixture: a test's hold on L1. It says what to run, and remembers what a report will want to know."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from harness.guest import handlers as own_handlers
from harness.guest import images
from harness.guest.guest import BITS, JOIN_TIMEOUT_US, Guest, Placed, apply_fields, apply_intercepts
from harness.guest.needs import NotOffered
from harness.guest.room import Room
from harness.judge import universal
from harness.judge.code import USER_TAIL, CodeResult, MsrResult, user_text
from harness.judge.exit import Exit
from harness.judge.expect import Expected, Match, compare, stated
from harness.link.session import ExecutorRefused, Session, TargetLost
from harness.scenario import places, steps
from harness.scenario.asm import Assembler, Snippet
from harness.scenario.scenario import PAGE, Item, Scenario, memory
from harness.scenario.steps import Fault, RaiseKind, Record, Step, VmrunAnswer
from harness.svm import Cpuid, Vmcb

BLOBS = places.L1_CODE + 16  # the first bytes hold a lone RET, for restore_step


@dataclass
class Tally:
    """How often a universal check was asked, and how often it failed, over a worker's whole run."""

    checked: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A scenario that a test ran. Of a guest's VMRUN: the guest, its VMCB at VMRUN, and as the exit before left it."""

    scenario: Scenario
    guest: Guest | None = None
    vmcb: bytes = b""
    left: bytes | None = None


ASKED_MAX = 64
"""So many scenarios of a test are remembered, the last ones."""


@dataclass
class SecondCpu:
    """A list of steps on the second CPU; `answers` is there once the `with` block has ended."""

    answers: list[Record] = field(default_factory=list)


class L1:
    """What a test does with L1. One is made for each test; `reset` makes it as new for a second try."""

    after_others = False
    """Whether what comes now is known to show after other tests of a boot only: so it was recorded."""

    def __init__(
        self, session: Session, assembler: Assembler, tallies: dict[str, Tally], deadline_s: float | None = None
    ) -> None:
        self.session = session
        self._assembler = assembler
        self._tallies = tallies
        self._deadline_s = deadline_s
        self.tries = 0  # how often it was reset
        self.reset()

    def reset(self, *, watchdog_us: int = 0) -> None:
        """Forgets what this test did so far. `watchdog_us` is for each VMRUN that sets none (0: the executor's)."""
        self._next_blob = BLOBS
        self._next_page = places.SCRATCH
        # To be done before the next scenario. First: SVM off and on again. Tests of a boot reuse addresses, and an L0
        # may keep what it made of an earlier test's nested tables until then, whatever TLB_CONTROL says.
        self._pending: list[Step] = [steps.code(places.SVM_OFF_AND_ON, {})]
        self._opened = {0}  # CPUs on which that was done; on others, when they are first used
        self.universal: dict[str, Match] = {}
        self.guests: list[Guest] = []
        self.last_exit: Exit | None = None
        self.digests: list[str] = []
        self.asked: deque[Asked] = deque(maxlen=ASKED_MAX)
        self.vmruns = 0
        self.second_cpu_runs = False
        self.undrained = False  # a VMRUN left interrupts pending, or GIF clear
        self.watchdog_us = watchdog_us
        self.watchdog_exits: list[str] = []  # of guests that the executor's own watchdog ended
        self._room = Room()
        self.settled: list[tuple[str, str, str]] = []  # what comparisons with any of several values came to
        self.tries += 1

    # What L1 sees

    @property
    def cpuid(self) -> Cpuid:
        """CPUID as L1 read it at boot."""
        return self.session.boot.hello.cpuid

    def need(self, *features: str) -> None:
        """Skips the test unless L1 is offered each feature ("NP", "!VGIF"). Raises NotOffered."""
        for feature in features:
            holds, reason = self.cpuid.evaluate_condition(feature)
            if not holds:
                raise NotOffered(reason)

    def need_cpus(self, count: int) -> None:
        """Skips the test where there are fewer CPUs. Raises NotOffered."""
        if count > 1 and self.session.boot.hello.cpu_count < count:
            raise NotOffered("the target has one CPU; this needs two (--cpus 2)")

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Universal checks meanwhile do not count among those of the run."""
        counted, self._tallies = self._tallies, {}
        try:
            yield
        finally:
            self._tallies = counted

    def either(self, condition: str, *, offered: Expected, absent: Expected) -> Expected:
        """What to expect both ways round: `nrip=l1.either("NRIPS", offered=guest["next"], absent=unwritten)`.

        `condition` is as in a clause ("NP & !VGIF"), asked of the CPUID that L1 sees. Raises ValueError for a feature
        that nobody knows. Such a test names the clauses of both sides; the one whose condition holds is judged.
        """
        return offered if self.cpuid.evaluate_condition(condition)[0] else absent

    def dirty(self, why: str) -> None:
        """This test leaves state behind: the next one gets a boot of its own."""
        self.session.boot.dirty = why

    # L2

    def guest(
        self,
        code: str,
        *,
        mode: str = "long64",
        np: bool = False,
        intercept: Iterable[str] = (),
        no_intercept: Iterable[str] = (),
        vmcb: Mapping[str, int] | None = None,
        regs: Mapping[str, int] | None = None,
        cpl: int = 0,
        vmcb_pa: int | None = None,
        code_base: int | None = None,
        stack_top: int | None = None,
    ) -> Guest:
        """An L2 that will run `code` (GNU as, Intel syntax, assembled for the mode).

        `mode` is long64, compat32, pae32, paged32, prot32 or real16. `intercept` and `no_intercept` change the default
        intercepts (VMRUN, VMMCALL, SHUTDOWN, INTR, every exception); `vmcb` sets fields by name, last of all.
        Each guest of a test has a VMCB, code and a stack of its own; `vmcb_pa`, `code_base` (in real mode the segment's
        base, below 1 MiB) and `stack_top` choose other places for them.
        Raises KeyError for a name that does not exist, AssemblyError for code that does not assemble, MemoryError when
        there is no room for another guest.
        """
        if mode not in BITS:
            raise KeyError(f"no such mode: {mode}; there are {', '.join(BITS)}")
        real = mode == "real16"
        place = self._room.next(real=real)
        base = place.code_base if code_base is None else code_base
        top = place.stack_top if stack_top is None else stack_top
        assembled = self._assembler.one(Snippet(code, BITS[mode], 0 if real else base))
        if code_base is None:
            self._room.fill(place, len(assembled.code))
        image = self.vmcb_image(mode, np=np, cpl=cpl)
        template = bytes(image.data)
        images.move(image, mode, base, top)
        registers = dict(regs or {})
        apply_intercepts(image, intercept, no_intercept)
        apply_fields(image, {name: registers[name] for name in ("rax", "rsp") if name in registers})
        apply_fields(image, vmcb or {})
        pa = place.vmcb_pa if vmcb_pa is None else vmcb_pa
        guest = Guest(self, assembled, base, mode, template, image, registers, pa, top)
        self.guests.append(guest)
        return guest

    def vmcb_image(self, mode: str = "long64", *, np: bool = False, cpl: int = 0) -> Vmcb:
        """A VMCB that is known to be good, for that mode."""
        return images.vmcb_image(mode, np=np, cpl=cpl)

    # L1's own instructions

    def code(
        self,
        code: str,
        regs: Mapping[str, int] | None = None,
        *,
        interrupts: bool = False,
        keep_state: bool = False,
        handlers: Mapping[int, str] | None = None,
    ) -> CodeResult:
        """Runs 64-bit code in L1 at CPL 0 to its end or to its first fault; a RET is added behind it.

        Control registers, DR6, DR7, segments, EFER.SVME and GIF are put back afterwards unless keep_state is set.
        `interrupts` sets RFLAGS.IF. `handlers` gives vectors L1 code of their own (see harness.guest.handlers); what
        they took is `taken` of the result.
        """
        return self._code(code, regs, interrupts=interrupts, keep_state=keep_state, tail=None, handlers=handlers)

    def user_code(self, code: str, regs: Mapping[str, int] | None = None) -> CodeResult:
        """Runs 64-bit code in L1 at CPL 3."""
        return self._code(user_text(code), regs, interrupts=False, keep_state=False, tail=USER_TAIL)

    def rdmsr(self, msr: int) -> MsrResult:
        """RDMSR in L1."""
        value, fault = steps.decode_msr(self.execute(Scenario([steps.rdmsr(msr)]))[0])
        return MsrResult(f"RDMSR {msr:08X}h", value, fault)

    def wrmsr(self, msr: int, value: int) -> MsrResult:
        """WRMSR in L1."""
        _, fault = steps.decode_msr(self.execute(Scenario([steps.wrmsr(msr, value)]))[0])
        return MsrResult(f"WRMSR {msr:08X}h, {value:016X}h", None, fault)

    def cpuid_now(self, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
        """CPUID executed in L1 now: EAX, EBX, ECX, EDX."""
        return steps.decode_cpuid(self.execute(Scenario([steps.cpuid(leaf, subleaf)]))[0])

    def read(self, addr: int, size: int) -> bytes:
        """Reads memory."""
        return self.execute(Scenario([steps.mem_read(addr, size)]))[0].body

    def write(self, addr: int, data: bytes) -> None:
        """Writes memory."""
        self.execute(Scenario(memory(addr, data)))

    def fill(self, addr: int, size: int, byte: int) -> None:
        """Fills memory."""
        self.execute(Scenario([steps.mem_fill(addr, size, byte)]))

    def scratch(self, pages: int = 1) -> int:
        """The address of pages that no one else uses, filled with zeros. Raises MemoryError when there is no room."""
        addr = self._next_page
        if addr + pages * PAGE > places.SCRATCH_END:
            raise MemoryError("the arena has no pages left")
        self._next_page += pages * PAGE
        self._pending.append(steps.mem_fill(addr, pages * PAGE, 0))  # a round trip less
        return addr

    def host_state(self) -> dict[str, int]:
        """L1's control, segment and debug registers and MSRs, by name."""
        return steps.decode_host_state(self.execute(Scenario([steps.host_state()]))[0])

    def raise_interrupt(self, vector: int) -> None:
        """A fixed interrupt to L1 itself; it stays pending while L1 has interrupts masked."""
        self.execute(Scenario([steps.raise_event(RaiseKind.SELF, vector)]))

    def raise_nmi(self) -> None:
        """An NMI to L1 itself."""
        self.execute(Scenario([steps.raise_event(RaiseKind.NMI_SELF)]))

    def window(self, duration_us: int = 100, *, stgi: bool = True, interrupts: bool = True) -> list[Fault]:
        """Opens an interrupt window in L1 and says what was taken in it."""
        step = steps.window(duration_us, stgi=stgi, interrupts=interrupts)
        return steps.decode_window(self.execute(Scenario([step]))[0])

    def steps(self, items: list[Item]) -> list[Record]:
        """Runs steps as they are; one answer record for each."""
        return self.execute(Scenario(items))

    @contextmanager
    def on_second_cpu(self, items: list[Step]) -> Iterator[SecondCpu]:
        """Runs steps on the second CPU while the block runs; skips where there is one CPU only.

        Where the block raises, the CPU is waited for all the same; if it does not end, the boot is used up.
        """
        self.need_cpus(2)
        second = SecondCpu()
        opening = self.opening(1)
        self.execute(Scenario([steps.cpu_start(1, [*opening, *items])]))
        self.second_cpu_runs = True
        try:
            yield second
        except BaseException:
            if self.session.running is not None:
                # What the block raised counts. A CPU that does not end uses up the boot: the session sees to that.
                with suppress(TargetLost, ExecutorRefused):
                    self._join()
            raise
        finally:
            self.second_cpu_runs = False
        second.answers = steps.split_records(self._join().body)[len(opening) :]

    def _join(self) -> Record:
        return self.execute(Scenario([steps.cpu_join(1, JOIN_TIMEOUT_US)]))[0]

    # What a test states

    def expect(self, name: str, got: int, expected: Expected, *, width_bytes: int = 8) -> Match:
        """Compares any other value, so that a failure shows its name."""
        if isinstance(got, bool) or isinstance(expected, bool):
            width_bytes = 1
        return stated(name, [compare(name, expected, int(got), width_bytes=width_bytes)])

    def settle(self) -> None:
        """Takes what a test left pending, so that the next one does not."""
        if self.undrained and self.session.running is not None:
            self.undrained = False
            self.window()

    # For Guest and the plugin

    def place_code(self, code: str, handlers: Mapping[int, str] | None = None) -> Placed:
        """Assembles L1 code and finds a place for it. Raises MemoryError when there is no room left."""
        log = 0
        if handlers:
            idt, log = self.scratch(1), self.scratch(1)
            code = own_handlers.with_handlers(code, handlers, idt, log)
        assembled = self._assembler.one(Snippet(code + "\nret", 64, self._next_blob))
        addr = self._next_blob
        if addr + len(assembled.code) > places.L1_CODE + places.L1_CODE_SIZE:
            raise MemoryError("a test's L1 code does not fit its place")
        self._next_blob += (len(assembled.code) + 15) & ~15
        return Placed(assembled, addr, list(steps.mem_write(addr, assembled.code)), log)

    def opening(self, cpu: int) -> list[Step]:
        """What a test's first list of steps on that CPU begins with: SVM off and on again, as on the first CPU."""
        if cpu in self._opened:
            return []
        self._opened.add(cpu)
        return [steps.code(places.SVM_OFF_AND_ON, {})]

    def restore_step(self) -> Step:
        """A blob that does nothing but have the executor put its own state back."""
        return steps.code(places.L1_CODE, {})

    def execute(
        self, scenario: Scenario, deadline_s: float | None = None, *, guest: Guest | None = None
    ) -> list[Record]:
        """Runs a scenario on the session; the answer record of each step."""
        if guest is not None:
            self.vmruns += 1
        pending, self._pending = self._pending, []
        if pending:
            scenario = Scenario([*pending, *scenario.items])
        self.digests.append(scenario.digest())
        self.asked.append(Asked(scenario) if guest is None else Asked(scenario, guest, *guest.images))
        return self.session.run(scenario, deadline_s or self._deadline_s)[len(pending) :]

    def host_at_vmrun(self, answer: VmrunAnswer, cpu: int = 0) -> Callable[[], dict[str, int]]:
        """What asks the executor for the host state that it has kept of this VMRUN; see Exit.host."""
        boot = self.session.boot.number

        def ask() -> dict[str, int]:
            if not answer.serial:
                raise LookupError("L1's state was not captured at this VMRUN")
            if self.session.boot.number != boot:
                raise LookupError(
                    "L1's state at this VMRUN is gone with its boot; ask for it before the target is lost"
                )
            try:
                records = self.execute(Scenario([steps.host_state_at(cpu, answer.serial)]))
            except ExecutorRefused:
                raise LookupError("L1's state is kept of the last 64 VMRUNs; ask for it earlier") from None
            self.digests.pop()  # it is no scenario of the test's own
            self.asked.pop()
            return steps.decode_host_state(records[0])

        return ask

    def watchdog_ended(self, what: str) -> None:
        """The executor's own watchdog ended a guest of this test; a deviation that follows begins with this."""
        self.watchdog_exits.append(what)

    def judge(self, exit: Exit, guest: Guest, *, gif_known: bool, probes: bool = True) -> None:
        """Asks the universal checks of an exit and remembers what failed: a known row must not hide another one."""
        self.last_exit = exit
        context = universal.Context(self.cpuid, guest.code, gif_known, probes)
        for clause, match in universal.judge(exit, context).items():
            tally = self._tallies.setdefault(clause, Tally())
            tally.checked += 1
            if match.holds:
                continue
            tally.failed += 1
            if clause in self.universal:
                self.universal[clause].take_in(match)
            else:
                self.universal[clause] = match

    def _code(
        self,
        code: str,
        regs: Mapping[str, int] | None,
        *,
        interrupts: bool,
        keep_state: bool,
        tail: str | None,
        handlers: Mapping[int, str] | None = None,
    ) -> CodeResult:
        self._next_blob = BLOBS if not self.guests else self._next_blob
        placed = self.place_code(code, handlers)
        loaded = dict(regs or {})
        items = [*placed.items, steps.code(placed.addr, loaded, interrupts=interrupts, keep_state=keep_state)]
        if placed.log:
            items.append(steps.mem_read(placed.log, own_handlers.LOG_BYTES, "handlers"))
        records = self.execute(Scenario(items))
        taken = own_handlers.read_log(records.pop().body) if placed.log else []
        return CodeResult(steps.decode_code(records[-1]), placed.assembled, loaded, tail, taken)
