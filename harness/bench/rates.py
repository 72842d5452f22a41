"""How many scenarios a second, by each way of feeding the executor, and how many VMRUNs the machine itself can do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.bench.figure import Bench, Failed, Figure, NotMeasured
from harness.guest.l1 import L1
from harness.home import state_of
from harness.link.frames import bundle_image
from harness.link.link import Link
from harness.link.session import Session
from harness.scenario import places, steps
from harness.scenario.asm import Assembler
from harness.scenario.scenario import Templates, compile_items
from harness.scenario.steps import Step, encode_list, split_records

GOAL_UART, GOAL_MEMORY, GOAL_BUNDLE = 100.0, 1500.0, 5000.0
GUEST = "start: cpuid\nafter: ud2"
SECONDS = 3.0
BUNDLED = 2000
LOOPS = 20_000
DEADLINE_S = 120.0
SLOW_ROUND_TRIP_S = 0.02
"""A console slower than this gets smaller numbers to do."""


def uart(bench: Bench) -> list[Figure]:
    """Served over the serial line."""
    return _served(bench, use_lane=False, way="over the UART", goal=GOAL_UART)


def memory(bench: Bench) -> list[Figure]:
    """Served through shared memory."""
    with bench.target_for_now() as target:
        if not target.capabilities().shared_memory:
            raise NotMeasured("this target shares no memory with the harness")
    return _served(bench, use_lane=True, way="through shared memory", goal=GOAL_MEMORY)


def bundle(bench: Bench) -> list[Figure]:
    """Bundled: the scenarios ride as a boot module, answers stream out."""
    with _session(bench, use_lane=False) as l1:
        compiled = _compiled(l1, Templates(), BUNDLED)
    path = bench.workdir / "bench.bundle"
    path.write_bytes(bundle_image(compiled))
    with bench.target_for_now(bundle=path) as target:
        link = Link(target.start(), round_trip_s=target.capabilities().round_trip_s)
        link.hello(target.capabilities().boot_deadline_s)
        started = time.monotonic()
        result = link.collect_bundle(DEADLINE_S)
        took_s = time.monotonic() - started
    if result.ran != BUNDLED or len(result.answers) != BUNDLED:
        raise Failed(f"of {BUNDLED} bundled scenarios {result.ran} ran and {len(result.answers)} were answered")
    size = sum(map(len, result.answers.values())) / BUNDLED
    return [
        Figure(
            name="scenarios a second, bundled",
            value=BUNDLED / took_s,
            unit="/s",
            goal=GOAL_BUNDLE,
            more_is_better=True,
            detail=f"{BUNDLED} in {took_s:.2f} s; {size:.0f} bytes an answer",
        )
    ]


def vmrun_loop(bench: Bench) -> list[Figure]:
    """VMRUN and #VMEXIT alone, in a loop that L1 runs by itself."""
    each_s = vmrun_rate(bench)
    return [
        Figure(
            name="VMRUN and #VMEXIT in a loop",
            value=1 / each_s,
            unit="/s",
            detail=f"{each_s * 1e6:.1f} us each",
        )
    ]


def vmrun_rate(bench: Bench, **more: object) -> float:
    """Seconds that one VMRUN and its #VMEXIT take; `more`: fields of TargetOptions to replace."""
    with _session(bench, use_lane=True, **more) as l1:
        slow = l1.session.target.capabilities().round_trip_s > SLOW_ROUND_TRIP_S
        loops = LOOPS // 10 if slow else LOOPS
        if not l1.guest("vmmcall").run().ran:
            raise Failed("VMRUN does not work here")
        took = []
        for count in (1, 1, loops):  # the first assembles the code, and an emulator translates it
            started = time.monotonic()
            done = l1.code("again: vmrun rax\n dec rcx\n jnz again", {"rax": places.VMCB, "rcx": count})
            took.append(time.monotonic() - started)
            if not done.returned:
                raise Failed(f"the loop of {count} VMRUNs did not come back")
    each_s = (took[2] - took[1]) / (loops - 1)
    if each_s <= 0:
        raise Failed(f"{loops} VMRUNs took no longer than one: what else the machine did took longer")
    return each_s


def _served(bench: Bench, *, use_lane: bool, way: str, goal: float) -> list[Figure]:
    """As a suite does it: assemble (cached), build the VMCB, send, wait, decode, ask the universal checks. And the
    link alone.
    """
    with _session(bench, use_lane=use_lane) as l1:
        _one(l1)
        began = time.monotonic()
        count = 0
        while time.monotonic() - began < SECONDS:
            _one(l1)
            count += 1
        whole = count / (time.monotonic() - began)
        boot = l1.session.boot
        if use_lane and not boot.link.on_lane:
            raise Failed("the link did not switch to shared memory")
        request = _compiled(l1, boot.templates, 1)[0]
        began = time.monotonic()
        count = 0
        answer = b""
        while time.monotonic() - began < SECONDS:
            answer = boot.link.run(request, DEADLINE_S)
            count += 1
        alone = count / (time.monotonic() - began)
    split_records(answer)
    sizes = f"{len(request)} bytes there, {len(answer)} back"
    return [
        Figure(
            name=f"scenarios a second, served {way}",
            value=whole,
            unit="/s",
            goal=goal,
            more_is_better=True,
            detail="as a test does it",
        ),
        Figure(name=f"requests a second, {way}", value=alone, unit="/s", detail=f"the link alone; {sizes}"),
    ]


def _one(l1: L1) -> None:
    l1.reset()
    guest = l1.guest(GUEST, intercept=["cpuid"])
    if not guest.run().matches(rip=guest["start"]):
        raise Failed("the scenario to measure with does not pass here")


def scenario_request(bench: Bench, session: Session) -> bytes:
    """That scenario as one request to a session's boot, which has its template."""
    boot = session.boot
    first, again = _compiled(_l1(bench, session), boot.templates, 2)
    boot.link.run(first, DEADLINE_S)
    return again


def _compiled(l1: L1, templates: Templates, count: int) -> list[bytes]:
    """That scenario as requests, `count` times."""
    l1.reset()
    guest = l1.guest(GUEST, intercept=["cpuid"])
    items = [*guest._memory_items(), steps.vmrun(places.VMCB, steps.VmrunFlag.IF, {})]
    lists: list[list[Step]] = [compile_items(items, templates) for _ in range(count)]
    return [encode_list(each) for each in lists]


@contextmanager
def _session(bench: Bench, *, use_lane: bool, **more: object) -> Iterator[L1]:
    with bench.target_for_now(**more) as target:
        session = Session(target, use_lane=use_lane)
        yield _l1(bench, session)


def _l1(bench: Bench, session: Session) -> L1:
    return L1(session, Assembler(state_of(bench.root) / "cache" / "asm"), {}, DEADLINE_S)
