"""Whatever the line and the executor do, a request is answered rightly and once, or fails by its deadline."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from harness.link.link import Link, LinkClosed, LinkError, LinkGarbage, LinkRefused, LinkReset, LinkTimeout
from tests.fake_executor import FakeExecutor, Fault, Line, Script, SimClock, SimConsole, digest

DEADLINE_S = 2.0
SLACK_S = 1e-6
RESETS = {Fault.RESET_BEFORE, Fault.RESET_DURING, Fault.RESET_AFTER}

line_faults = st.dictionaries(st.integers(0, 2500), st.sampled_from(Line), max_size=10)
honest = [fault for fault in Fault if fault is not Fault.LIE_DATA]
amounts = st.sampled_from([0.0, 0.001, 0.4, 1.0, 1.9, 2.5])
message_faults = st.dictionaries(st.integers(0, 14), st.tuples(st.sampled_from(honest), amounts), max_size=4)
scripts = st.builds(Script, line_faults, line_faults, message_faults)
requests = st.lists(st.binary(max_size=300), min_size=1, max_size=6)


def long_answer(repeats: int) -> Callable[[bytes], bytes]:
    return lambda steps: digest(steps) * repeats


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=scripts,
    bodies=requests,
    repeats=st.integers(0, 12),
    fifo_bytes=st.sampled_from([16, None]),
    chunk_bytes=st.sampled_from([1, 7, 65536]),
    first_seq=st.sampled_from([1, 65533]),
)
def test_any_script_ends_in_the_right_answer_or_the_right_error(
    script: Script, bodies: list[bytes], repeats: int, fifo_bytes: int | None, chunk_bytes: int, first_seq: int
) -> None:
    respond = long_answer(repeats)
    clock = SimClock()
    executor = FakeExecutor(respond, script, fifo_bytes=fifo_bytes, fragment_max=100)
    link = Link(SimConsole(executor, clock, chunk_bytes), clock=clock, first_seq=first_seq)
    steps = [number.to_bytes(2, "little") + body for number, body in enumerate(bodies)]

    for step in [b"hello", *steps]:
        began = clock.now
        try:
            if step == b"hello":
                link.hello(DEADLINE_S)
            else:
                answer = link.run(step, DEADLINE_S)
                executed = [run for run in executor.executions if run.steps == step]
                assert answer == respond(step)
                assert [run.boot_id for run in executed] == [link.boot_id]
        except LinkError as error:
            event(type(error).__name__)
            assert_fits(error, executor, script)
            if step == b"hello":
                break  # nothing can be asked without one
        assert clock.now - began <= DEADLINE_S + SLACK_S

    # A machine reset between the probe and the repeat may run it again; that boot's answer is never taken.
    runs = [(run.boot_id, run.steps) for run in executor.executions]
    assert len(runs) == len(set(runs)), "executed twice"


def assert_fits(error: LinkError, executor: FakeExecutor, script: Script) -> None:
    """The error is one that what happened can explain, with evidence that is bounded and printable."""
    met = set(executor.faults_met)
    noisy = bool(script.to_executor or script.to_harness)
    match error:
        case LinkReset():
            assert met & RESETS
            assert error.hello.boot_id > 1
        case LinkClosed():
            assert Fault.CLOSE in met
        case LinkRefused():
            assert noisy or Fault.REFUSE in met
        case LinkGarbage():
            assert noisy or met
        case LinkTimeout():
            assert noisy or met
        case _:
            raise AssertionError(f"no family: {error!r}")
    assert len(error.last_frames) <= 24 and all(len(line) < 1500 for line in error.last_frames)
    assert len(error.console_text) <= 4 * 4096
    assert all(line.isprintable() for line in (*error.last_frames, *error.console_text.split("\n"), *error.notes))


@settings(max_examples=200, deadline=None)
@given(to_executor=line_faults, to_harness=line_faults, bodies=requests)
def test_a_line_that_gets_better_leaves_no_trace(
    to_executor: dict[int, Line], to_harness: dict[int, Line], bodies: list[bytes]
) -> None:
    clock = SimClock()
    executor = FakeExecutor(script=Script(to_executor, to_harness))
    link = Link(SimConsole(executor, clock), clock=clock)
    try:
        link.hello(DEADLINE_S)
        for body in bodies:
            link.run(body, DEADLINE_S)
    except LinkError:
        pass
    executor.script = Script()
    if link.hello_seen is None:
        link.hello(DEADLINE_S)

    answer = link.run(b"after all that", DEADLINE_S)

    assert answer == digest(b"after all that")
