"""`nsvm bless` on made-up records: nothing without a reason, nothing written unasked, nothing lost of what is there."""

from __future__ import annotations

import tomllib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import bless
from harness.cli.bless_values import says_of
from harness.cli.console import UserError
from harness.command import main
from harness.judge.baseline import Baseline
from harness.record import (
    BaselineRef,
    Check,
    ClauseInfo,
    End,
    Evidence,
    Fresh,
    Result,
    Row,
    RunStart,
    Scope,
    TargetInfo,
    Writer,
    load,
)
from harness.summary import summarise

BASELINE = """\
# Known deviations of QEMU TCG.

# Seen by reading target/i386/tcg.
[[deviation]]
clause = "core.a"
tests = ["test_a[1]", "test_a[2]"] # two of them
reason = "the first"
reference = "svm_helper.c"

# Mended soon.
[[deviation]]
clause = "core.b"
tests = [
    "test_b", # a "]" in a comment
]
reason = "the second"
reference = "svm_helper.c"

[[deviation]]
clause = "core.c"
reason = "all of them"
reference = "svm_helper.c"
"""

COLLECTED = [f"suites/core/test_a.py::test_a[{n}]" for n in (1, 2, 3)] + [
    f"suites/core/test_n.py::test_new[{n}]" for n in ("x", "y")
]


def result(
    name: str, clause: str, verdict: str, news: str, *rows: tuple[str, str], universal: bool = False, reason: str = ""
) -> Result:
    check = Check(
        clause=clause,
        verdict=verdict,
        news=news,
        universal=universal,
        summary="differs",
        baseline=BaselineRef(reason="r", reference="f") if news == "known" else None,
        rows=[Row(name=row, expected="0h", got=got) for row, got in rows],
    )
    clauses = () if universal else (clause,)
    return Result(
        test=f"suites/core/test_x.py::{name}",
        target="qemu-tcg",
        verdict=verdict,
        news=news,
        clauses=clauses,
        checks=(check,),
        reason=reason,
    )


def record(folder: Path, *results: Result, target: TargetInfo | None = None) -> Path:
    """A run folder."""
    folder.mkdir(exist_ok=True)
    with Writer(folder / "run.jsonl") as writer:
        writer.write(RunStart(run_id="abc123", started="2026-11-22T10:00:00+00:00"))
        for clause in ("core.a", "core.b", "core.c", "core.new", "core.host"):
            writer.write(ClauseInfo(id=clause, bit="core", statement="It holds."))
        writer.write(target or TargetInfo(target="qemu-tcg", version="QEMU 7.2.18", boots=1))
        for each in results:
            writer.write(each)
        summary = summarise(load(folder / "run.jsonl"), ending=True)
        writer.write(
            End(
                finished="", duration_s=1.0, exit_status=summary.exit_status, counts=summary.counts,
                new=summary.new, known=summary.known, mended=summary.mended,
            )
        )  # fmt: skip
    return folder


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    folder = tmp_path / "baselines"
    folder.mkdir()
    (folder / "qemu-tcg.toml").write_text(BASELINE)
    return folder


def propose_all(folder: Path, baselines: Path, **more: Any) -> list[bless.Proposal]:
    """What blessing proposes."""
    args = Namespace(
        **{
            "reason": "because",
            "reference": "",
            "versions": "",
            "clause": [],
            "into": "",
            "baselines": baselines,
            "values": None,
        }
        | more
    )
    summary = summarise(load(folder / "run.jsonl"))
    return bless.propose_values(summary, args) if args.values else bless.propose(summary, args, COLLECTED)


def proposed(folder: Path, baselines: Path, **more: Any) -> str | None:
    """The baseline after blessing, or None if nothing is proposed."""
    proposals = propose_all(folder, baselines, **more)
    return proposals[0].after if proposals else None


def test_without_a_reason_nothing_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "run", result("test_new[x]", "core.new", "FAIL", "new"))

    assert main(["bless", str(folder), "--reason", "  "]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "bless needs --reason" in said.err


def test_a_new_deviation_becomes_an_entry_with_its_tests_reason_and_reference(tmp_path: Path, baselines: Path) -> None:
    folder = record(tmp_path / "run", result("test_new[x]", "core.new", "FAIL", "new"))

    after = proposed(folder, baselines)

    assert after is not None and after.startswith(BASELINE)
    assert tomllib.loads(after)["deviation"][-1] == {
        "clause": "core.new",
        "tests": ["test_new[x]"],
        "reason": "because",
        "reference": "run abc123, QEMU 7.2.18",
    }


def test_what_was_blessed_is_known_afterwards(tmp_path: Path, baselines: Path) -> None:
    folder = record(
        tmp_path / "run",
        result('test_new["q\\uote"]', "core.new", "CRASH", "new"),
        result("test_host", "core.host", "FAIL", "new", universal=True),
    )

    after = proposed(folder, baselines, versions=">=7.2,<8", reference="the source", reason='says "no"\n')

    assert after is not None
    path = tmp_path / "after.toml"
    path.write_text(after)
    baseline = Baseline.load(path, (7, 2, 18))
    known = baseline.known("core.new", 'suites/core/test_x.py::test_new["q\\uote"]', "CRASH")
    assert known is not None and known.reason == 'says "no"'
    assert baseline.known("core.host", "suites/core/test_x.py::test_host", "FAIL") is not None
    assert Baseline.load(path, (8, 0)).known("core.host", "suites/core/test_x.py::test_host", "FAIL") is None


def test_what_has_become_known_since_the_run_is_not_proposed_again(tmp_path: Path, baselines: Path) -> None:
    folder = record(
        tmp_path / "run",
        result("test_c", "core.c", "FAIL", "new"),
        result("test_a[1]", "core.a", "FAIL", "new"),
        result("test_a[3]", "core.a", "FAIL", "new"),
    )

    after = proposed(folder, baselines)

    assert after is not None
    added = tomllib.loads(after)["deviation"][3:]
    assert [(entry["clause"], entry["tests"]) for entry in added] == [("core.a", ["test_a[3]"])]


def test_a_baseline_that_cannot_be_read_is_a_line(tmp_path: Path, baselines: Path) -> None:
    (baselines / "qemu-tcg.toml").write_text("[[deviation]")
    folder = record(tmp_path / "run", result("test_c", "core.c", "FAIL", "new"))

    with pytest.raises(UserError, match="qemu-tcg"):
        proposed(folder, baselines)


def test_all_parameter_sets_of_a_test_are_abbreviated_some_are_not(tmp_path: Path, baselines: Path) -> None:
    whole = record(tmp_path / "whole", *(result(f"test_new[{n}]", "core.new", "FAIL", "new") for n in "xy"))
    part = record(
        tmp_path / "part",
        result("test_new[x]", "core.new", "FAIL", "new"),
        result("test_new[y]", "core.new", "PASS", "ok"),
    )

    assert 'tests = ["test_new[*]"]' in (proposed(whole, baselines) or "")
    assert 'tests = ["test_new[x]"]' in (proposed(part, baselines) or "")


def test_a_universal_check_that_fires_everywhere_is_blessed_for_every_test(tmp_path: Path, baselines: Path) -> None:
    many = [result(f"test_{n}", "core.host", "FAIL", "new", universal=True) for n in range(30)]

    after = proposed(record(tmp_path / "run", *many), baselines)

    assert after is not None
    assert "tests" not in tomllib.loads(after)["deviation"][-1]


def test_mended_tests_leave_their_entry_and_an_empty_entry_leaves_with_its_comment(
    tmp_path: Path, baselines: Path
) -> None:
    folder = record(
        tmp_path / "run",
        result("test_a[1]", "core.a", "PASS", "mended"),
        result("test_a[2]", "core.a", "FAIL", "known"),
        result("test_b", "core.b", "PASS", "mended"),
    )

    after = proposed(folder, baselines)

    assert (
        after
        == """\
# Known deviations of QEMU TCG.

# Seen by reading target/i386/tcg.
[[deviation]]
clause = "core.a"
tests = ["test_a[2]"] # two of them
reason = "the first"
reference = "svm_helper.c"

[[deviation]]
clause = "core.c"
reason = "all of them"
reference = "svm_helper.c"
"""
    )


def test_a_pattern_of_which_a_part_is_mended_becomes_the_list_of_what_is_left(tmp_path: Path, baselines: Path) -> None:
    (baselines / "qemu-tcg.toml").write_text(
        '[[deviation]]\nclause = "core.a"\ntests = ["test_a[*]", "test_other"]\nreason = "r"\nreference = "f"\n'
    )
    folder = record(
        tmp_path / "run",
        result("test_a[1]", "core.a", "PASS", "mended"),
        result("test_a[3]", "core.a", "FAIL", "known"),
    )

    assert 'tests = ["test_a[3]", "test_other"]' in (proposed(folder, baselines) or "")


def test_only_the_clauses_asked_for(tmp_path: Path, baselines: Path) -> None:
    folder = record(
        tmp_path / "run",
        result("test_new[x]", "core.new", "FAIL", "new"),
        result("test_b", "core.b", "PASS", "mended"),
    )

    after = proposed(folder, baselines, clause=["core.n*"])

    assert after is not None and after.startswith(BASELINE)
    assert "core.new" in after


def test_nothing_new_proposes_nothing_and_lost_tests_cannot_be_blessed(tmp_path: Path, baselines: Path) -> None:
    folder = record(
        tmp_path / "run", result("test_c", "core.c", "FAIL", "known"), result("test_lost", "core.a", "ERROR", "ok")
    )

    assert proposed(folder, baselines) is None


def test_the_command_shows_a_diff_and_writes_only_when_told(
    tmp_path: Path, baselines: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bless, "ROOT", tmp_path)
    monkeypatch.setattr(bless, "collect", list)
    folder = record(tmp_path / "run", result("test_new[x]", "core.new", "FAIL", "new"))
    path = baselines / "qemu-tcg.toml"

    assert main(["bless", str(folder), "--reason", "because"]) == 0
    told = capsys.readouterr().out
    assert "--- a/baselines/qemu-tcg.toml" in told
    assert '+clause = "core.new"' in told
    assert told.endswith("Nothing is written yet; --write applies it.\n")
    assert path.read_text() == BASELINE

    assert main(["bless", str(folder), "--reason", "because", "--write"]) == 0
    assert tomllib.loads(path.read_text())["deviation"][-1]["clause"] == "core.new"
    assert [each.name for each in baselines.iterdir()] == ["qemu-tcg.toml"]


def test_a_target_with_two_baselines_is_asked_which(tmp_path: Path, baselines: Path) -> None:
    target = TargetInfo(target="qemu-tcg", version="QEMU 7.2.18", baselines=("qemu-tcg", "below"))
    folder = record(tmp_path / "run", result("test_new[x]", "core.new", "FAIL", "new"), target=target)

    own = propose_all(folder, baselines)
    below = propose_all(folder, baselines, into="below")

    assert [proposal.path.stem for proposal in own] == ["qemu-tcg"]
    assert [proposal.path.stem for proposal in below] == ["below"]
    assert "core.new" in below[0].after
    with pytest.raises(UserError, match="are qemu-tcg, below"):
        propose_all(folder, baselines, into="elsewhere")


def test_what_came_is_blessed_with_the_deviation(tmp_path: Path, baselines: Path) -> None:
    many = [("rip", f"0082_00{n:02}h") for n in range(10)]
    own = ("exception", "#GP[0000h] at 0000_0000_0010_7552h")
    folder = record(
        tmp_path / "run",
        result("test_new[x]", "core.new", "FAIL", "new", ("exitcode", "60h"), ("cs.attrib", "1h"), own),
        result("test_new[y]", "core.new", "FAIL", "new", ("exitcode", "61h"), *many),
        result("test_dies", "core.new", "CRASH", "new", reason="the target ended; Xen BUG at nestedsvm.c:1002"),
    )

    after = proposed(folder, baselines)

    assert after is not None
    compared, died = tomllib.loads(after)["deviation"][-2:]
    assert compared["got"].pop("exception") == ["#GP[0000h] at 0000_0000_0010_*h"]  # every build has another
    assert compared["got"] == {"exitcode": ["60h", "61h"], "cs.attrib": ["1h"], "rip": ["0082_000*h"]}
    assert 'got.exitcode = ["60h", "61h"]\n' in after
    assert died["says"] == "Xen BUG at nestedsvm.c:*"


def test_a_deviation_after_others_is_blessed_as_such(tmp_path: Path, baselines: Path) -> None:
    seen = replace(
        result("test_new[x]", "core.new", "FAIL", "new", ("exitcode", "60h")), fresh=Fresh(state="after-others")
    )

    after = proposed(record(tmp_path / "run", seen), baselines)

    assert after is not None and tomllib.loads(after)["deviation"][-1]["after_others"] is True


def test_values_are_written_into_the_entries_there_are(tmp_path: Path, baselines: Path) -> None:
    path = baselines / "qemu-tcg.toml"
    path.write_text(BASELINE.replace('reason = "all', 'fields = ["rip", # why\n    "cpl"] # free\nreason = "all'))
    asked = Evidence(title="core.host, asked of every #VMEXIT; this one was x", rows=[Row(name="CR2", got="1h")])
    named = Evidence(title="after x", rows=[Row(name="exitcode", got="60h"), Row(name="rip", got="0h", ok=True)])
    old = replace(result("test_a[1]", "core.a", "FAIL", "known"), evidence=(named, asked))  # checks had no rows
    folder = record(
        tmp_path / "run",
        old,
        result("test_a[2]", "core.a", "FAIL", "known", ("exitcode", "61h")),
        result("test_c", "core.c", "FAIL", "known", ("rip", "3h")),
        result("test_d", "core.nowhere", "FAIL", "new", ("rip", "3h")),
    )

    after = proposed(folder, baselines, values="add")

    assert after is not None
    first, second, third = tomllib.loads(after)["deviation"]
    assert first["got"] == {"exitcode": ["60h", "61h"]}
    assert "got" not in second
    assert (third["got"], third["fields"]) == ({"rip": ["3h"]}, ["cpl"])
    assert 'tests = ["test_a[1]", "test_a[2]"] # two of them\ngot.exitcode = ["60h", "61h"]\nreason' in after
    assert "# free" in after and "# Mended soon." in after

    path.write_text(after)
    assert proposed(folder, baselines, values="add") is None  # a second time changes nothing
    more = record(tmp_path / "more", result("test_a[2]", "core.a", "FAIL", "new", ("exitcode", "62h")))
    assert 'got.exitcode = ["60h", "61h", "62h"]' in (proposed(more, baselines, values="add") or "")


def test_values_anew_take_the_place_of_those_of_before(tmp_path: Path, baselines: Path) -> None:
    path = baselines / "qemu-tcg.toml"
    path.write_text(BASELINE.replace('reason = "all', 'got.rip = ["1h"]\ngot.rax = ["*"]\nreason = "all'))
    rows = ("rip", "2h"), ("rax", "77h"), ("exitcode", "60h")
    folder = record(tmp_path / "run", result("test_c", "core.c", "FAIL", "new", *rows))

    assert proposed(folder, baselines, values="add") is None
    after = proposed(folder, baselines, values="anew")

    assert after is not None
    assert tomllib.loads(after)["deviation"][2]["got"] == {"rip": ["2h"], "rax": ["*"], "exitcode": ["60h"]}


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("no answer within 10.2 s", "no answer within * s"),
        ("the target ended; Xen panicked: Xen BUG at a/nestedsvm.c:1002", "Xen panicked: Xen BUG at a/nestedsvm.c:*"),
        ("the target ended; QEMU died of SIGABRT: x.c:81:f: failed", "QEMU died of SIGABRT: x.c:*:f: failed"),
    ],
)
def test_says_names_no_number(reason: str, says: str) -> None:
    assert says_of(reason) == says


def booted(edx: int, version: str = "QEMU 7.2.18") -> TargetInfo:
    return TargetInfo(target="qemu-tcg", version=version, executor_build="ab", edx=edx, boots=1)


@pytest.mark.parametrize(
    ("before", "offers"),
    [
        ("", [{"bits": ["NP", "VGIF"]}]),
        ('[[offers]]\nbits = ["NP"]\n\n', [{"bits": ["NP", "VGIF"]}]),
        (
            '# old\n[[offers]]\nbits = [\n  "NP",\n]\nversions = "<7"\n\n[[offers]]\nbits = []\nversions = ">=7"\n\n',
            [{"bits": ["NP"], "versions": "<7"}, {"bits": ["NP", "VGIF"], "versions": ">=7"}],
        ),
    ],
    ids=["none", "other bits", "of that version"],
)
def test_the_bits_that_are_offered_are_written(
    tmp_path: Path, baselines: Path, before: str, offers: list[dict[str, object]]
) -> None:
    (baselines / "qemu-tcg.toml").write_text(before + BASELINE)
    lost = result("qemu-tcg.toml::offers.AVIC", "offers.AVIC", "FAIL", "new")
    folder = record(tmp_path / "run", lost, target=booted(0x10001))

    after = proposed(folder, baselines)

    assert after is not None
    read = tomllib.loads(after)
    assert read["offers"] == offers
    assert read["deviation"] == tomllib.loads(BASELINE)["deviation"]


def test_bits_that_were_asked_for_or_are_there_already_are_not_written(tmp_path: Path, baselines: Path) -> None:
    asked = record(tmp_path / "asked", target=booted(0x10001))
    with Writer(asked / "run.jsonl") as writer:
        writer.write(Scope(target="qemu-tcg", chosen=1, there=1, options=["--without NRIPS"]))
    assert proposed(asked, baselines) is None
    (baselines / "qemu-tcg.toml").write_text('[[offers]]\nbits = ["VGIF", "NP"]\n\n' + BASELINE)
    assert proposed(record(tmp_path / "there", target=booted(0x10001)), baselines) is None


def test_what_every_machine_of_an_l0_shares_is_not_told_its_bits(tmp_path: Path, baselines: Path) -> None:
    info = TargetInfo(target="ssh://a", version="6.1", executor_build="ab", edx=1, boots=1, baselines=["kvm"])

    assert proposed(record(tmp_path / "run", target=info), baselines) is None
