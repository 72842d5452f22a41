"""Recording and replaying: honest answers pass, lies are noticed, and a test or a check that cannot fail is named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness.answer_bytes import encode_code, encode_host_state, encode_vmrun, encode_window
from harness.hello import Hello
from harness.lies import UNIVERSAL_LIES, WORDS_MAX, fine_lies, lies_of, raised_by, record_lies
from harness.replay import AnswersError, OutOfAnswers, Recorded, ReplaySession, pack, read_answers
from harness.scenario import Scenario
from harness.session import TargetLost
from harness.steps import (
    CodeAnswer,
    Fault,
    Op,
    Phase,
    RaiseKind,
    Record,
    Status,
    VmrunAnswer,
    VmrunResult,
    decode_code,
    decode_host_state,
    decode_vmrun,
    decode_window,
    mem_read,
    raise_event,
)
from harness.svm import Cpuid
from tests.harness.test_plugin import ROOT, suite  # noqa: F401  # a fixture

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
    """Records a suite on the fake target and puts it on trial; gives the process, and the report if there is one."""

    def run(source, *arguments, baseline=""):
        suite(source, "--target", "fake", "--nsvm-answers", "answers", "-n", "2", baseline=baseline)
        command = [sys.executable, "-m", "harness.sensitivity", "answers", "--root", str(pytester.path), *arguments]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=pytester.path, env=environment, capture_output=True, text=True, timeout=60)
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

    assert "TESTS THAT NOTICE NOTHING: 1\n  suites/core/test_it.py::test_toothless" in done.stdout
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

    assert (report["asserts_that_cannot_fail"], report["asserts_not_reached"]) == ([], []), done.stdout


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

    assert (report["asserts_that_cannot_fail"], report["asserts_not_reached"]) == ([], []), done.stdout


def test_sound_tests_are_enough_for_every_universal_check(tried):
    refused = '@clause("core.b")\ndef test_refused(l1):\n    assert run(l1, 105).is_invalid\n'
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


def test_missing_answers_are_one_line(tmp_path):
    command = [sys.executable, "-m", "harness.sensitivity", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nsvm: ") and done.stderr.count("\n") == 1
