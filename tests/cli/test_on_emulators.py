"""The commands as a person types them, on real emulators."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from harness.record import load

ROOT = Path(__file__).resolve().parents[2]
CHOICE = "test_asid_zero_is_refused and real16"  # what is chosen needs to be short, nothing else

pytestmark = pytest.mark.emulator


def nsvm(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "nsvm"), *arguments, "--no-install"],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def emulators(mark: str) -> set[int]:
    """The process ids of the emulators that have the mark in their environment: those of one run alone."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "comm").read_text().strip()
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if name.startswith(("qemu-system", "bochs")) and mark.encode() in environment:
                found.add(int(folder.name))
    return found


@pytest.mark.parametrize("target", ["qemu-tcg", "bochs"])
def test_caps_names_every_bit(target: str) -> None:
    done = nsvm("caps", "--target", target, "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["svm"] is True
    assert [bit["bit"] for bit in told["bits"]] == list(range(32))
    assert told["bits"][0] == {
        "bit": 0, "name": "NP", "title": "nested paging", "apm": "15.25", "reserved": False, "offered": True,
    }  # fmt: skip
    efer = next(msr for msr in told["msrs"] if msr["name"] == "EFER")
    assert efer["value"] >> 12 & 1 == 1


def test_two_targets_give_one_report(tmp_path: Path) -> None:
    out = tmp_path / "out"

    done = nsvm("run", "--target", "qemu-tcg", "--target", "bochs", "-k", CHOICE, "--out", str(out), "-n", "1")

    assert done.returncode in (0, 1), done.stderr
    record = load(out / "run.jsonl")
    assert record.complete and not record.problems
    assert {result.target for result in record.results} == {"qemu-tcg", "bochs"}
    assert {target.target for target in record.targets} == {"qemu-tcg", "bochs"}
    assert (out / "qemu-tcg" / "run.jsonl").exists()
    assert (out / "index.html").stat().st_size > 1000
    assert "bochs" in done.stdout and "qemu-tcg" in done.stdout
    rendered = nsvm("render", str(out))
    assert rendered.returncode == done.returncode


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=lambda v: str(v)
)
def test_a_run_that_is_ended_leaves_a_record_and_no_emulator(tmp_path: Path, number: int, status: int) -> None:
    mark = f"NSVM_TEST_MARK={uuid.uuid4().hex}"
    out = tmp_path / "out"
    process = subprocess.Popen(
        [str(ROOT / "nsvm"), "run", "--no-install", "--out", str(out), "-n", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=os.environ | {mark.partition("=")[0]: mark.partition("=")[2]},
        process_group=0,
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "run.jsonl").exists() or b'"result"' not in (out / "run.jsonl").read_bytes():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        assert emulators(mark)
        os.kill(process.pid, number)
        said, _ = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    assert process.returncode == status
    record = load(out / "run.jsonl")
    assert record.results
    if number != signal.SIGKILL:
        assert record.interrupted
        assert (out / "index.html").exists()
        assert b"Interrupted: " in said
    deadline = time.monotonic() + 30
    while emulators(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert emulators(mark) == set()


def test_a_choice_that_matches_nothing_is_wrong_use(tmp_path: Path) -> None:
    done = nsvm("run", "-k", "no_such_test_at_all", "--out", str(tmp_path / "out"))

    assert done.returncode == 2
    assert "no test was chosen" in done.stderr.splitlines()[-1]


def test_bench_measures_the_boot() -> None:
    done = nsvm("bench", "--only", "boot", "--rounds", "1", "--json")

    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    assert figures["boot to hello"]["value"] > 0
    assert figures["boot to hello, times the trivial image"]["goal"] == 1.3
