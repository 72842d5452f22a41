"""Recording and replaying: honest answers pass, lies are noticed, and a test or a check that cannot fail is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.link.hello import Hello
from harness.link.session import TargetLost
from harness.scenario.answer_bytes import encode_code, encode_host_state, encode_vmrun, encode_window
from harness.scenario.scenario import Scenario
from harness.scenario.steps import (
    CodeAnswer,
    Fault,
    Op,
    Phase,
    RaiseKind,
    Record,
    Status,
    Step,
    VmrunAnswer,
    VmrunResult,
    decode_code,
    decode_host_state,
    decode_vmrun,
    decode_window,
    mem_read,
    raise_event,
)
from harness.sensitivity import trial
from harness.sensitivity.asserts import Assert
from harness.sensitivity.lies import UNIVERSAL_LIES, WORDS_MAX, fine_lies, lies_of, raised_by, record_lies
from harness.sensitivity.replay import UNIVERSAL_CHECKS
from harness.sensitivity.report import ANOTHER_CPUID, DEVIATES, IDLE, NEVER, NOT_REPLAYED, Report, render
from harness.sensitivity.trial import NOTHING, NOTICES, SEEN, SKIPPED, UNREPLAYABLE, Trial, TrialResult
from harness.svm import Cpuid
from harness.trace.answers import AnswersError, Lost, Recorded, RecordingL1, pack, read_answers
from harness.trace.replaying import OutOfAnswers, ReplaySession
from tests.run.test_plugin import ROOT, suite  # noqa: F401  # a fixture

pytest_plugins = ["pytester"]
HELLO = Hello(1, 0, 1, bytes(16), 9, 0, 0, 4096, 4096, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, Cpuid({(0, 0): (1, 2, 3, 4)}))
FAULT = Fault(13, Phase.VMRUN, 0, 0, 1, 2, 3, 4, 5, 8)
EVENT = Fault(2, Phase.AFTER_STGI, 0, None, 1, 2, 3, 4, 5, 8)


def vmrun_record(**changes):
    fields = {
        "result": VmrunResult.PROBED, "tsc_cycles": 7, "registers": {"rcx": 1, "r15": 2}, "events": [EVENT],
        "differences": [(0x70, b"\x81" + bytes(7))], "host_changes": {"CR2": (1, 2), "MSR_C0000081": (3, 4)},
    }  # fmt: skip
    answer = VmrunAnswer(**(fields | changes))
    return answer, Record(Op.VMRUN, Status.OK, 0, encode_vmrun(answer))


def test_answers_are_encoded_as_they_are_decoded():
    answer, record = vmrun_record()
    assert decode_vmrun(record) == answer

    for fault in (None, FAULT):
        code = CodeAnswer(fault, {"rax": 5}, 2, [EVENT])
        status = Status.FAULT if fault else Status.OK
        assert decode_code(Record(Op.CODE, status, 0, encode_code(code))) == code
    assert decode_window(Record(Op.WINDOW, Status.OK, 0, encode_window([EVENT, FAULT]))) == [EVENT, FAULT]
    state = {"CR3": 1, "MSR_C0000081": 2, "DR7": 3}
    assert decode_host_state(Record(Op.HOST_STATE, Status.OK, 0, encode_host_state(state))) == state


def test_every_lie_about_vmrun_can_be_read_and_differs():
    answer, record = vmrun_record()
    told = [(lie.what, lie.records[0]) for lie in lies_of([[record]], {})]

    names = {what for what, _ in told}
    assert {"VMCB exitcode", "register rcx", "L1's CR2", "VMRUN event removed", "VMRUN fault added"} <= names
    assert set(UNIVERSAL_LIES) <= names
    for what, lie in told:
        decoded = decode_vmrun(lie)
        assert decoded != answer or lie.status != record.status, what


def test_lie_about_a_fault_of_vmrun():
    _, record = vmrun_record(result=VmrunResult.PROBED | VmrunResult.FAULTED, events=[FAULT])
    told = dict(record_lies(record, None))

    assert decode_vmrun(told["VMRUN fault removed"]).events == []
    assert told["VMRUN fault removed"].status is Status.OK
    assert decode_vmrun(told["VMRUN fault's vector"]).events[0].vector != 13


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (Record(Op.RDMSR, Status.OK, 0, bytes(8)), "RDMSR value"),
        (Record(Op.WRMSR, Status.OK, 0, b""), "WRMSR fault added"),
        (Record(Op.CPUID, Status.OK, 0, bytes(16)), "CPUID EBX"),
        (Record(Op.MEM_READ, Status.OK, 0, b"abc"), "memory"),
        (Record(Op.WINDOW, Status.OK, 0, encode_window([])), "WINDOW event added"),
        (Record(Op.HOST_STATE, Status.OK, 0, encode_host_state({"CR0": 1})), "HOST_STATE CR0"),
        (Record(Op.RAISE, Status.OK, 0, b"\x01"), "RAISE answer"),
        (Record(Op.CPU_JOIN, Status.OK, 0, b"\x07\0\0\0\x08\0\0\0" + bytes(8)), "CPU 1: RDMSR value"),
    ],
)
def test_each_kind_of_answer_is_lied_about(record, name):
    lies = list(lies_of([[record]], {}))

    assert name in {lie.what for lie in lies}
    assert all(lie.records != [record] for lie in lies)


def test_fine_lie_alters_one_word():
    memory = bytes(0xF8) + (0x1234).to_bytes(8, "little")
    told = [record.body for _, record in fine_lies(Record(Op.MEM_READ, Status.OK, 0, memory), None, [])]

    assert told[0] == bytes(0xF8) + (0x1234 ^ (1 << 64) - 1).to_bytes(8, "little")
    assert len(told) == 32 + WORDS_MAX + WORDS_MAX
    for body in told:
        wrong = [at for at in range(len(memory)) if body[at] != memory[at]]
        assert len(wrong) in (2, 4, 8) and wrong[0] % len(wrong) == 0 and wrong[-1] - wrong[0] < len(wrong)


def test_fine_lies_about_events():
    _, record = vmrun_record(events=[EVENT, FAULT])
    told = {}
    for what, lie in fine_lies(record, None, [0x61]):
        told.setdefault(what, []).append(decode_vmrun(lie).events)

    assert [event.vector for event in told["VMRUN event added"][0]] == [2, 13, 0x61]
    assert told["VMRUN events' order"] == [[FAULT, EVENT]]
    assert [events[0].rip for events in told["VMRUN event's RIP"][:2]] == [0, (1 << 64) - 1]
    assert told["VMRUN event's error code"][1][1].error is None


def test_fine_lies_come_last_and_only_where_they_are_asked_for():
    _, record = vmrun_record()
    memory = Record(Op.MEM_READ, Status.OK, 0, bytes(16))

    assert not any(lie.fine for lie in lies_of([[record, memory]], {}))
    order = [lie.fine for lie in lies_of([[record, memory]], {}, [0x61])]
    assert order == sorted(order) and order[-1]


def test_raised_vectors_are_known():
    asked = [raise_event(RaiseKind.SELF, 0x61), raise_event(RaiseKind.NMI_SELF), raise_event(RaiseKind.INIT_SELF)]

    assert raised_by([Scenario([mem_read(0, 1), *asked]), Scenario(asked[:1])]) == [0x61, 2]


def test_replay_gives_answers_in_order_and_no_more():
    calls = [[Record(Op.MEM_READ, Status.OK, 0, b"a")], [Record(Op.MEM_READ, Status.OK, 0, b"b")]]
    stored = Recorded("t", "fake", "PASS", "ok", pack(HELLO, calls))
    hello, read = stored.unpack()
    session = ReplaySession(hello, read)

    assert read == calls
    assert [session.run(Scenario([]))[0].body for _ in calls] == [b"a", b"b"]
    with pytest.raises(OutOfAnswers):
        session.run(Scenario([]))
    with pytest.raises(TargetLost):
        ReplaySession(hello, read, lost_at=0).run(Scenario([]))


@pytest.mark.parametrize("text", ["nonsense\n", '{"test": "t"}\n', "[]\n"])
def test_damaged_file_is_one_clear_line(tmp_path, text):
    path = tmp_path / "answers"
    path.write_text(text)

    with pytest.raises(AnswersError, match="answers:1 is no line of answers"):
        list(read_answers(path))
    with pytest.raises(AnswersError, match="No such file"):
        list(read_answers(tmp_path / "nowhere"))
    with pytest.raises(AnswersError, match="answers of t cannot be read"):
        Recorded("t", "fake", "PASS", "ok", "AAAA").unpack()


NSVM = [sys.executable, "-m", "harness.command"]
ONE = Assert("suites/t.py", 1, 1, "f", "assert 1")


class Mortal:
    """A session whose target is lost over the second thing that it is asked."""

    def __init__(self):
        self.asked = 0
        self.started = SimpleNamespace(hello=HELLO)
        self.running = self.started

    @property
    def boot(self):
        self.running = self.started
        return self.running

    def run(self, scenario, deadline_s=None):
        self.asked += 1
        if self.asked == 2:
            self.running = None
            raise TargetLost("CRASH", "reset", "the machine was reset")
        return [Record(item.op, Status.OK, 0, bytes([self.asked])) for item in scenario.items]


def answers_of(function, session):
    """What a recording keeps of that test."""
    l1 = RecordingL1(session, None, {})
    function(l1)
    return Recorded("t", "fake", "PASS", "ok", pack(l1.attempts[-1].hello, l1.attempts[-1].calls))


def survives_the_loss(l1):
    assert l1.read(0, 1) == b"\1"
    try:
        l1.read(0, 1)
    except TargetLost as lost:
        assert (lost.verdict, lost.what, lost.reason) == ("CRASH", "reset", "the machine was reset")
    else:
        raise AssertionError("it was not lost")
    assert l1.read(0, 1) == b"\3"


def on_trial(function, recorded, lines=None, **how):
    """What the trial of a function says; its folder counts as the suites."""
    item = SimpleNamespace(obj=function, _fixtureinfo=SimpleNamespace(argnames=("l1",)))
    root = Path(__file__).parents[1]
    tried = Trial(item, recorded, None, root, lines or {})
    tried._suites = str(root)
    return tried.run(survive=False, **how)


def memory_answer(body):
    return [Record(Op.MEM_READ, Status.OK, 0, body)]


def memory_answers(*bodies):
    """A recorded test that read memory, and passed."""
    return Recorded("t", "fake", "PASS", "ok", pack(HELLO, list(map(memory_answer, bodies))))


def test_loss_of_the_target_has_its_place_among_the_answers():
    recorded = answers_of(survives_the_loss, Mortal())
    _, calls = recorded.unpack()

    assert calls[1] == Lost("CRASH", "reset", "the machine was reset")
    assert {lie.call for lie in lies_of(calls, {})} == {0, 2}
    assert on_trial(survives_the_loss, recorded).state == NOTICES


def dies(l1):
    """The one thing that it states is that no answer comes."""
    code = None
    with suppress(TargetLost):
        code = l1.read(0, 4)
    assert l1.expect("an answer came", code is not None, False)


def test_target_that_is_not_lost_is_a_lie_too():
    recorded = Recorded("t", "fake", "PASS", "ok", pack(HELLO, [Lost("CRASH", "crash", "the target ended")]))
    found = on_trial(dies, recorded)

    assert (found.state, found.lied) == (NOTICES, {"target not lost"})


def test_answer_of_a_target_that_is_not_lost_can_be_read():
    asked = [raise_event(RaiseKind.NMI_SELF), mem_read(0, 3), *(Step(op, b"") for op in (Op.VMRUN, Op.CODE, Op.WINDOW))]
    (lie,) = lies_of([Lost("CRASH", "crash", "the target ended")], {}, [], [Scenario(asked)])
    raised, memory, vmrun, code, window = lie.records

    assert (raised.body, memory.body, decode_window(window)) == (b"", bytes(3), [])
    assert (decode_vmrun(vmrun).events, decode_code(code).fault) == ([], None)


def read_once(l1):
    assert l1.read(0, 1) == b"a"


def read_much(l1):
    first, *_ = [l1.read(0, 1) for _ in range(12)]
    assert first == b"a"


def ask_without_end(l1):
    while l1 is not None:
        pass


def fail_with_pytest(l1):
    pytest.fail("it says so itself")


def leave(l1):
    sys.exit("it leaves")


def stumble(l1):
    raise ValueError("a bug in the test")


def test_replay_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(trial, "REPLAY_MAX_S", 0.2)
    found = on_trial(ask_without_end, memory_answers(b"a"))

    assert (found.state, found.replays) == (UNREPLAYABLE, 1)
    assert found.reason == "with the recorded answers it broke: it did not end within 0.2 s"


@pytest.mark.parametrize(
    ("function", "reason"),
    [(fail_with_pytest, "Failed: it says so itself"), (leave, "SystemExit: it leaves")],
    ids=["pytest.fail", "sys.exit"],
)
def test_what_is_no_exception_does_not_end_the_trials(function, reason):
    found = on_trial(function, memory_answers(b"a"))

    assert (found.state, found.reason) == (UNREPLAYABLE, f"with the recorded answers it broke: {reason}")


@pytest.mark.parametrize(
    ("function", "verdict", "calls", "state"),
    [
        (read_once, "FAIL", [memory_answer(b"b")], SEEN),
        (stumble, "FAIL", [memory_answer(b"b")], UNREPLAYABLE),
        (stumble, "CRASH", [Lost("CRASH", "crash", "the target ended")], UNREPLAYABLE),
        (read_once, "CRASH", [Lost("CRASH", "crash", "the target ended")], SEEN),
        (read_once, "HANG", [Lost("HANG", "hang", "no answer")], SEEN),
        (read_once, "FAIL", [Lost("CRASH", "crash", "the target ended")], UNREPLAYABLE),
        (read_once, "FAIL", [], UNREPLAYABLE),
    ],
)
def test_known_deviation_counts_as_seen_only_if_the_replay_shows_it(function, verdict, calls, state):
    assert on_trial(function, Recorded("t", "fake", verdict, "known", pack(HELLO, calls))).state == state


@pytest.mark.parametrize(("verdict", "reached"), [("CRASH", set()), ("FAIL", {ONE})])
def test_assert_over_which_the_target_is_lost_is_not_come_by(verdict, reached):
    answer = Lost("CRASH", "crash", "the target ended") if verdict == "CRASH" else memory_answer(b"b")
    lines = {__file__: {read_once.__code__.co_firstlineno + 1: ONE}}
    found = on_trial(read_once, Recorded("t", "fake", verdict, "known", pack(HELLO, [answer])), lines)

    assert (found.state, found.reached) == (SEEN, reached)


def test_full_run_tells_every_lie_until_the_test_has_noticed_one():
    assert on_trial(read_much, memory_answers(*[b"a"] * 12), full=True).state == NOTICES


def test_nothing_is_told_of_answers_that_the_test_did_not_ask_for():
    calls = [memory_answer(b"a"), [Record(Op.WINDOW, Status.OK, 0, encode_window([]))]]
    found = on_trial(read_once, Recorded("t", "fake", "PASS", "ok", pack(HELLO, calls)), full=True)

    assert (found.state, found.lied) == (NOTICES, {"memory"})


def sound_report():
    report = Report(asserts=[ONE])
    report.universal.update(UNIVERSAL_CHECKS)
    report.tests = {state: TrialResult(state, "fake", state) for state in (NOTICES, SEEN, SKIPPED)}
    return report


def with_tests(report, state):
    report.tests[state] = TrialResult(state, "fake", state, "its reason")


DEFECTS = {
    "toothless": (lambda report: with_tests(report, NOTHING), "TESTS THAT NOTICE NOTHING: 1\n"),
    "not replayable": (
        lambda report: with_tests(report, UNREPLAYABLE),
        "tests that cannot be replayed: 1\n  not replayable: its reason\n",
    ),
    "idle": (lambda report: report.standing.update({IDLE: [ONE]}), f"{IDLE}: 1\n  suites/t.py:1: assert 1\n"),
    "never": (lambda report: report.standing.update({NEVER: [ONE]}), f"{NEVER}: 1\n  suites/t.py:1: assert 1\n"),
    "silent": (lambda report: report.universal.pop(UNIVERSAL_CHECKS[0]), f"  {UNIVERSAL_CHECKS[0]}   NONE\n"),
    "gone": (lambda report: report.gone.append("suites/t.py::old"), "record them again: 1\n  suites/t.py::old\n"),
}


@pytest.mark.parametrize(("spoil", "told"), DEFECTS.values(), ids=DEFECTS)
def test_each_defect_alone_is_status_1(spoil, told):
    report = sound_report()
    assert report.exit_status == 0

    spoil(report)
    assert report.exit_status == 1
    assert told in render(report)


def test_what_could_not_be_judged_is_told_and_is_no_defect():
    report = sound_report()
    report.unrecorded = {"suites/t.py::other": "SKIP on fake: dangerous", "suites/t.py::third": ""}
    report.standing = {why: [ONE] for why in (DEVIATES, NOT_REPLAYED, ANOTHER_CPUID)}
    del report.universal[UNIVERSAL_CHECKS[0]]

    assert report.exit_status == 0
    text = render(report)
    assert "not judged: 2\n  suites/t.py::other: SKIP on fake: dangerous\n  suites/t.py::third\n" in text
    assert f"  {UNIVERSAL_CHECKS[0]}   not judged: no occasion\n" in text
    assert all(f"{why}: 1\n" in text for why in report.standing)


SOUND = """
@clause("core.a")
def test_sound(l1):
    assert run(l1).matches(code=VMEXIT.VMMCALL)
"""
TOOTHLESS = """
@clause("core.a")
def test_toothless(l1):
    exit = run(l1)
    assert exit.code >= 0
"""


@pytest.fixture
def tried(suite, pytester):  # noqa: F811
    """Records a suite on the fake target and puts it on trial; gives the process, and the report if there is one.

    Without a source it is put on trial with the answers of the time before; `start` gives the running process.
    """

    def run(source, *arguments, baseline="", start=False):
        if source is not None:
            suite(source, "--target", "fake", "--nsvm-answers", "answers", "-n", "2", baseline=baseline)
        command = [*NSVM, "sensitivity", "answers", "--root", str(pytester.path), *arguments]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTEST_ADDOPTS": "-k nothing_of_the_kind"}
        where = {"cwd": pytester.path, "env": environment, "text": True}
        if start:
            return subprocess.Popen(command, **where, stderr=subprocess.PIPE, start_new_session=True)
        done = subprocess.run(command, **where, capture_output=True, timeout=60)
        return done, json.loads(done.stdout) if "--json" in arguments else None

    return run


def states(report):
    return {name.rpartition("::")[2]: told["state"] for name, told in report["tests"].items()}


def test_toothless_test_is_named(tried):
    done, report = tried(SOUND + TOOTHLESS, "--json")

    assert done.returncode == 1
    assert states(report) == {"test_sound": "notices", "test_toothless": "notices nothing"}
    assert report["notice_nothing"] == ["suites/core/test_it.py::test_toothless"]


def test_toothless_test_is_named_on_paper(tried):
    done, _ = tried(SOUND + TOOTHLESS)

    assert "TESTS THAT NOTICE NOTHING: 1\n  suites/core/test_it.py::test_toothless\n" in done.stdout
    assert "1 notice an alteration" in done.stdout


def test_assert_that_cannot_fail_is_named(tried):
    source = SOUND + '    assert l1.expect("one", 1, 1)\n'
    done, report = tried(source, "--json")

    assert done.returncode == 1
    assert states(report) == {"test_sound": "notices"}
    assert [text.partition(": ")[2] for text in report["asserts_that_cannot_fail"]] == ["assert l1.expect('one', 1, 1)"]


def test_part_of_memory_is_enough_to_make_an_assert_fail(tried):
    """No lie about all of it passes the first assert and fails the second."""
    source = (
        SOUND
        + """
    data = l1.read(l1.scratch(), 16)
    assert l1.expect("low", data[0], 0)
    assert l1.expect("high", data[8], 0)
"""
    )
    done, report = tried(source, "--json")

    assert (report["asserts_that_cannot_fail"], report["asserts_not_reached"]) == ([], {}), done.stdout


def test_assert_that_few_tests_reach_is_tried_in_these(tried):
    source = """
@clause("core.a")
@pytest.mark.parametrize("n", range(40))
def test_sound(l1, n):
    exit = run(l1)
    if n == 25:
        assert l1.expect("RCX", exit.regs["rcx"] & 0xFFFF, 1)
    assert exit.matches(code=VMEXIT.VMMCALL)
"""
    done, report = tried(source, "--json")

    assert (report["asserts_that_cannot_fail"], report["asserts_not_reached"]) == ([], {}), done.stdout


def test_assert_is_accused_only_when_every_test_was_tried(tried):
    """All tests come by it; one of them, which is not among those that are tried first, shows that it can fail."""
    source = """
@clause("core.a")
@pytest.mark.parametrize("n", range(40))
def test_sound(l1, n):
    exit = run(l1)
    assert l1.expect("RCX", exit.regs["rcx"] & 0xFFFF if n == 25 else 1, 1)
    assert exit.matches(code=VMEXIT.VMMCALL)
"""
    done, report = tried(source, "--json")

    assert report["asserts_that_cannot_fail"] == [], done.stdout


def test_every_assert_of_the_suites_is_judged_or_named_with_why_not(tried, pytester):
    """Those of helpers, too; and of those that no replay comes by, each kind has its place."""
    pytester.path.joinpath("suites", "core", "helping.py").write_text("""
from contextlib import contextmanager

@contextmanager
def around(l1):
    assert l1.expect("in a helper", 1, 1)
    yield

def forgotten():
    assert "nobody calls this"

class Kept:
    def check(self, l1):
        assert l1.expect("in a class", 1, 1)
""")
    source = """
import helping

@clause("core.a")
def test_sound(l1):
    with helping.around(l1):
        assert run(l1).matches(code=VMEXIT.VMMCALL)
    helping.Kept().check(l1)
    for each in []:
        assert each, "in no loop"
    if l1.cpuid.has("AVIC"):
        assert run(l1).code, "with AVIC"

@clause("core.b")
@pytest.mark.parametrize("n", [0, 1])
def test_part(l1, n):
    if n:
        pytest.skip("not today")
    assert run(l1).matches(code=VMEXIT.VMMCALL)
    if n:
        assert n, "skipped"

@clause("core.a")
def test_known(l1):
    assert run(l1, 100).matches(code=VMEXIT.VMMCALL)
    assert l1.expect("behind it", 1, 2)
"""
    known = '[[deviation]]\nclause = "core.a"\ntests = ["test_known"]\nreason = "a fake"\nreference = "tests"\n'
    _, report = tried(source, "--json", baseline=known)

    def texts(asserts):
        return [text.partition(": ")[2] for text in asserts]

    assert texts(report["asserts_that_cannot_fail"]) == [
        "assert l1.expect('in a helper', 1, 1)",
        "assert l1.expect('in a class', 1, 1)",
    ]
    assert texts(report["asserts_that_never_run"]) == ["assert 'nobody calls this'", "assert each, 'in no loop'"]
    assert {why: texts(asserts) for why, asserts in report["asserts_not_reached"].items()} == {
        DEVIATES: ["assert l1.expect('behind it', 1, 2)"],
        NOT_REPLAYED: ["assert n, 'skipped'"],
        ANOTHER_CPUID: ["assert run(l1).code, 'with AVIC'"],
    }


def test_tests_without_answers_are_named(tried):
    """A new deviation is not kept; a test that has another name now has none either."""
    source = '@clause("core.a")\ndef test_new(l1):\n    assert run(l1, 100).matches(code=VMEXIT.VMMCALL)\n'
    done, report = tried(SOUND + source, "--json")
    assert list(report["without_answers"]) == ["suites/core/test_it.py::test_new"]

    test = Path("suites/core/test_it.py")
    test.write_text(test.read_text().replace("test_sound", "test_renamed"))
    done, report = tried(None, "--json")
    assert done.returncode == 1
    assert report["gone"] == ["suites/core/test_it.py::test_sound"]
    assert sorted(report["without_answers"]) == [f"suites/core/test_it.py::test_{name}" for name in ("new", "renamed")]


REPLAYED = 'import os\nREPLAYED = "PYTEST_XDIST_WORKER" not in os.environ\n'


def test_process_that_dies_is_an_error_of_the_harness(tried):
    source = REPLAYED + SOUND + "    if REPLAYED:\n        os.kill(os.getpid(), 9)\n"
    done, _ = tried(source + TOOTHLESS, "-n", "2")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("nsvm: a process that tried tests died") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interruption_is_one_line_and_leaves_no_process(tried, number):
    """Ctrl-C reaches the whole group, and nobody waits for a replay that does not end."""
    slow = "    if REPLAYED:\n        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
    slow += "        open(f'judged-{os.getpid()}', 'w').close()\n        time.sleep(60)\n"
    both = SOUND + slow + TOOTHLESS + slow
    process = tried(REPLAYED + "import signal, time\n" + both, "-n", "2", start=True)
    deadline = time.monotonic() + 30
    while not (judged := list(Path().glob("judged-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    _, said = process.communicate(timeout=20)

    if number == signal.SIGINT:
        assert (process.returncode, said) == (130, "nsvm: interrupted\n")
    workers = [Path("/proc", path.name.partition("-")[2]) for path in judged]
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers and not any(map(alive, workers))


def alive(process):
    try:
        return ") Z " not in (process / "stat").read_text()
    except OSError:
        return False


def test_few_sound_tests_are_enough_for_a_quick_run(tried):
    """Though there are more kinds of lies for the universal checks than tests."""
    refused = '@clause("core.b")\ndef test_refused(l1):\n    assert run(l1, 0).is_invalid\n'
    done, report = tried(SOUND + refused, "--json")

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert all(report["universal"].values()), report["universal"]


def test_sound_tests_are_enough_for_every_universal_check(tried):
    refused = '@clause("core.b")\ndef test_refused(l1):\n    assert run(l1, 0).is_invalid\n'
    several = '@clause("core.a")\n@pytest.mark.parametrize("n", range(20))\ndef test_sound(l1, n):\n'
    many = several + "    assert run(l1).matches(code=VMEXIT.VMMCALL)\n"
    done, report = tried(many + refused, "--json", "--full")

    assert (done.returncode, done.stderr) == (0, "")
    assert all(report["universal"].values()), report["universal"]
    assert report["fields"]["VMCB exitcode"][:2] == [21, 21]
    assert report["fields"]["VMCB tlb_control"] == [21, 0, 21]
    assert "register rcx" in report["fields_noticed_by_none"]


def test_test_that_cannot_be_replayed_is_named(tried):
    source = """
calls = []
@clause("core.a")
def test_moody(l1):
    import os
    assert run(l1).matches(code=VMEXIT.VMMCALL if "PYTEST_XDIST_WORKER" in os.environ else VMEXIT.HLT)
"""
    done, report = tried(source, "--json")

    assert done.returncode == 1
    assert states(report) == {"test_moody": "not replayable"}
    assert "with the recorded answers it asserts" in report["not_replayable"]["suites/core/test_it.py::test_moody"]


def test_deviation_of_the_target_is_a_test_seen_failing(tried):
    known = '[[deviation]]\nclause = "core.a"\ntests = ["test_one"]\nreason = "a fake"\nreference = "tests"\n'
    source = '@clause("core.a")\ndef test_one(l1):\n    assert run(l1, 100).matches(code=VMEXIT.VMMCALL)\n'
    _, report = tried(SOUND + source, "--json", baseline=known)

    assert states(report) == {"test_sound": "notices", "test_one": "seen failing"}


def test_test_that_loops_under_a_lie_breaks_off(tried):
    source = (
        SOUND
        + """
@clause("core.b")
def test_looping(l1):
    while l1.rdmsr(0x10).value != 0:
        pass
    assert run(l1).ran
"""
    )
    _, report = tried(source, "--json", "--full")

    assert states(report)["test_looping"] == "notices"
    assert report["broke"] > 0


def test_missing_assembler_is_told_as_every_command_does(tmp_path):
    command = [*NSVM, "sensitivity", "--no-install", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert "missing: Debian package binutils" in done.stderr and "Traceback" not in done.stderr


def test_missing_answers_are_one_line(tmp_path):
    command = [*NSVM, "sensitivity", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nsvm: ") and done.stderr.count("\n") == 1
