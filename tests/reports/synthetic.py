"""Run records made up for the tests of the reports: nothing here was measured on anything."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.record import (
    BaselineRef,
    Check,
    ClauseInfo,
    CodeLine,
    End,
    Event,
    Evidence,
    Fresh,
    HostInfo,
    Interrupted,
    Line,
    NsvmInfo,
    Result,
    Row,
    RunStart,
    SetField,
    Setup,
    TargetInfo,
    Universal,
    Writer,
    load,
)
from harness.record.packed import pack
from harness.summary import Summary, summarise
from harness.svm import Vmcb

HOSTILE = (
    "<script>alert('pwned')</script>",
    "</pre></details><img src=x onerror=alert(1)>",
    "\x1b[31;5mred\x1b[0m \x1b]0;title\x07 \x9b2J",
    "]]> <!-- & &amp; {{ 7*7 }} {% raw %}",
    "\u202eevitcefed si siht\u202c \u2066x\u2069",
    "nul\x00 del\x7f nel\x85 ls\u2028 bom\ufeff non\ufffe\uffff lone\ud800 low\udc00",
    '" onmouseover="alert(2)" x="',
    "javascript:alert(3)",
    "[red]rich markup[/red] [link=file:///etc/passwd]x[/link]",
    "\U0001f600 ok \U000e0001tag\U000e0041",
    "wide " + "W" * 30_000,
)

VMCB = pack(bytes(Vmcb(fields={"exitcode": 0x81, "asid": 1, "intercept_misc2": 3}).data))


def _read_clauses() -> list[tuple[str, ...]]:
    lines = (Path(__file__).parent / "synthetic_clauses.txt").read_text("utf-8").splitlines()
    return [tuple(part.strip() for part in line.split("|")) for line in lines if not line.startswith("#")]


_CLAUSES = _read_clauses()

UNIVERSAL = (
    ("core.every_exit.host_state", "The host's control registers, EFER, RFLAGS, RSP and segments are what they were."),
    ("core.every_exit.gif_clear", "GIF is clear after #VMEXIT."),
    ("core.every_exit.eventinj_v_clear", "EVENTINJ.V is clear after #VMEXIT."),
    ("core.every_exit.control_fields_untouched", "No control field that hardware does not write has changed."),
    ("core.every_exit.exitcode_high_half", "The high half of EXITCODE is written."),
)  # fmt: skip

_KNOWN = {
    "core.exit.exitcode_is_64_bit": ("EXITCODE is stored as 32 bits", "https://gitlab.example.org/qemu/issues/1234"),
    "core.shadow.interrupt_shadow_loads": ("VMRUN ignores INTERRUPT_SHADOW", "svm_helper.c, helper_vmrun"),
    "core.checks.cr4_reserved": ("CR4 is not checked against the reserved bits", "docs/known.md#cr4"),
    "core.checks.iopm_above_limit": ("the IOPM base is not checked", ""),
    "np.g_pat.legal_types": ("G_PAT is not checked", "https://gitlab.example.org/qemu/issues/1240"),
    "core.every_exit.exitcode_high_half": ("EXITCODE is stored as 32 bits", "https://gitlab.example.org/qemu/issues/1234"),
}  # fmt: skip


def _clauses(hostile: bool) -> list[ClauseInfo]:
    out = [
        ClauseInfo(
            id=id_,
            bit=bit,
            statement=statement,
            alias=f"X-{number:03}",
            apm=apm,
            class_=class_,
            condition=condition,
            trust=tuple(trust.split()),
            hardware=hardware,
            note=HOSTILE[0] if hostile and number == 0 else "",
        )
        for number, (id_, bit, apm, class_, condition, trust, hardware, statement, _) in enumerate(_CLAUSES)
    ]
    out += [
        ClauseInfo(id=id_, bit="core", statement=statement, apm="15.6", trust=("APM", "XEN"))
        for id_, statement in UNIVERSAL
    ]
    out.append(
        ClauseInfo(id="np.later.cr4_pke", bit="NP", statement="A clause that no test checks yet.", apm="15.25.13")
    )
    return out


def _evidence(rng: random.Random, clause: str, text: str) -> tuple[Evidence, ...]:
    got = rng.choice(("00000000_FFFFFFFF", "00000000_00000081", "00000000_00000000"))
    return (
        Evidence(
            title="What came back from VMRUN",
            rows=(
                Row(name="exitcode", expected="FFFFFFFF_FFFFFFFF", got=got, meaning="INVALID, not VMMCALL"),
                Row(name="rip", expected="00000000_00820000", got="00000000_00820003", meaning="start, not after"),
                Row(name="asid", expected="00000000", got="00000000", meaning="", ok=True),
                Row(name="console", expected="nothing", got=text, meaning=text[:200]),
            ),
            code=tuple(
                CodeLine(
                    addr=f"{0x820000 + 3 * n:x}", bytes="0f 01 d9", text="vmmcall", mark="exit here" if n == 2 else ""
                )
                for n in range(6)
            ),
            setup=Setup(
                good="long64, nested paging",
                fields=(SetField("asid (058h)", "0000_0001h", "0000_0000h"), SetField(text, text, text, text)),
                intercepts=("+cpuid", "-shutdown", text[:60]),
                later=(SetField("cr0 (558h)", "8000_0031h", "8001_0031h", "+WP"),) if rng.random() < 0.3 else (),
                steps=("EFER.SVME off and on again", "VMRUN, rAX 0080_0000h (IF=1)", text[:200]),
                vmcb_after=rng.choice((VMCB, VMCB[:-20], text)),
            ),
            frames=tuple(f"-> {n:04} RUN 412 bytes {rng.randbytes(24).hex()}" for n in range(30)),
            log="\n".join(f"[{n:5}.0] (d1) {clause}: unexpected exit 0x{rng.randrange(1 << 16):x}" for n in range(60))
            + "\n"
            + text,
        ),
    )


class Maker:
    """Makes the records of one run; `hostile` puts text into them that wants to do harm."""

    def __init__(self, *, seed: int = 7, targets: Sequence[str] = ("qemu-tcg",), hostile: bool = False) -> None:
        self.rng = random.Random(seed)
        self.targets = targets
        self.hostile = hostile
        self.new_clause = "nrips.off.field_is_not_written"
        self.mended_clause = "core.checks.efer_svme_clear"
        self.crash = True
        self.lost = True

    def text(self) -> str:
        return self.rng.choice(HOSTILE) if self.hostile else "no noise"

    def records(self, *, end: bool = True) -> list[Line]:
        """The whole run."""
        out: list[Line] = [
            RunStart(
                run_id="20261122-204512-7f3a",
                started="2026-11-22T20:45:12+01:00",
                argv=("./nsvm", "run", *(w for t in self.targets for w in ("--target", t))),
                nsvm=NsvmInfo(version="0.1.0", commit="4f2a9be01c", dirty=True),
                python="3.11.2",
                host=HostInfo(os="Debian GNU/Linux 12", cpu="Some Xeon"),
            )
        ]
        out += _clauses(self.hostile)
        for target in self.targets:
            out += self._target(target)
        if end:
            out.append(self.end(out))
        return out

    def end(self, records: list[Line]) -> End:
        results = [r for r in records if isinstance(r, Result)]
        news = Counter(r.news for r in results if r.verdict not in ("ERROR", "MISS"))
        lost = any(r.verdict in ("ERROR", "MISS") for r in results)
        return End(
            finished="2026-11-22T20:47:40+01:00",
            duration_s=148.2,
            exit_status=1 if news["new"] or news["mended"] else 3 if lost else 0,
            counts=Counter(r.verdict for r in results),
            new=news["new"],
            known=news["known"],
            mended=news["mended"],
        )

    def _target(self, target: str) -> list[Line]:
        edx = 0x1001_0001 if target == "qemu-tcg" else 0x0000_144B
        noise = self.text() if self.hostile else ""
        out: list[Line] = [
            TargetInfo(
                target=target,
                worker=worker,
                version=f"QEMU 7.2.18 (Debian 1:7.2+dfsg-7+deb12u16) {noise}".strip(),
                command=(
                    "qemu-system-x86_64",
                    "-accel",
                    "tcg",
                    "-cpu",
                    "max,+svm",
                    "-serial",
                    f"unix:/tmp/{worker}.sock",
                ),
                executor_build="9c1e00a4d2f7",
                cpuid=(
                    (0, 0, 0xD, 0x6874_7541, 0x444D_4163, 0x6974_6E65),
                    (1, 0, 0x00A2_0F12, 0x0001_0800, 0xFED8_3203, 0x178B_FBFF),
                    (0x8000_0002, 0, 0x554D_4551, 0x4743_5420, 0x55504320, 0x2E322E37),
                    (0x8000_0008, 0, 0x0000_3030, 0, 0, 0),
                    (0x8000_000A, 0, 1, 16, 0, edx),
                ),
                edx=edx,
                boots=1,
            )
            for worker in ("gw0", "gw1")
        ]
        out += [Event(target=target, what="boot", worker=w, detail="0.21 s") for w in ("gw0", "gw1") for _ in range(9)]
        for id_, bit, _, _, condition, _, _, _, many in _CLAUSES:
            params = int(many)
            for number in range(params):
                out.append(self._result(target, id_, bit, condition, edx, number, params))
        for id_, _ in UNIVERSAL:
            known = id_ in _KNOWN and target == "qemu-tcg"
            out += [Universal(target=target, clause=id_, checked=n, failed=3 * known) for n in (1201, 1177)]
        if self.crash:
            out.append(
                Event(target=target, what="crash", worker="gw1", detail=f"signal 6: assertion failed {noise}"[:2000])
            )
            out.append(Event(target=target, what="restart", worker="gw1", detail="after the crash"))
        return out

    def _result(self, target: str, clause: str, bit: str, condition: str, edx: int, number: int, params: int) -> Result:
        folder = "core" if bit == "core" else bit.lower()
        function = "test_" + clause.split(".")[-1]
        param = f"case{number}" if not (self.hostile and number == 1) else self.text()[:300]
        test = f"suites/{folder}/test_{clause.split('.')[1]}.py::{function}" + (f"[{param}]" if params > 1 else "")
        verdict, news, reason = "PASS", "ok", ""
        checks: list[Check] = []
        baseline = None
        fresh = None
        offered = {"NP": 0, "LBRVIRT": 1, "SVML": 2, "NRIPS": 3, "TSCRATEMSR": 4, "VMCBCLEAN": 5, "FLUSHBYASID": 6}
        offered |= {"DECODEASSISTS": 7, "PAUSEFILTER": 10, "VGIF": 16}
        wanted = condition.removeprefix("!")
        if wanted and bool(edx >> offered[wanted] & 1) == condition.startswith("!"):
            verdict, news = "SKIP", "skipped"
            reason = f"{bit} is {'' if condition.startswith('!') else 'not '}offered"
        elif clause == self.new_clause and number in (2, 5):
            verdict, news, reason = "FAIL", "new", "0C8h was written: expected the pre-fill, got RIP"
            fresh = Fresh(state="same", shared_verdict="FAIL", shared_reason=reason)
        elif clause == self.mended_clause and number == 0 and target == "qemu-tcg":
            news, baseline = "mended", BaselineRef(reason="EFER.SVME is not checked", reference="fixed in 7.2.18?")
        elif clause == "advisories.xsa_7.survives" and number == 4 and self.crash:
            verdict, news, reason = "CRASH", "new", f"the target died: {self.text()}"
        elif clause == "core.gif.clear_after_exit" and number == 1 and self.lost:
            verdict, reason = "ERROR", "the answer was shorter than its header said"
        elif clause == "core.vintr.v_irq" and number == 3 and self.lost:
            verdict, reason = "MISS", "worker gw1 was lost"
        elif clause == "core.vintr.v_irq" and number == 5:
            fresh = Fresh(
                state="differs", shared_verdict="FAIL", shared_reason=f"no #VMEXIT of VINTR; {self.text()[:100]}"
            )
        elif clause in _KNOWN and target == "qemu-tcg" and number % 2 == 0:
            verdict, news, reason = "FAIL", "known", "exit 81h (VMMCALL), expected VMEXIT_INVALID"
            baseline = BaselineRef(reason=_KNOWN[clause][0], reference=_KNOWN[clause][1])
        if clause == "core.inject.exception_types" and number < 3 and target == "qemu-tcg":
            verdict, news, reason = "FAIL", "known", "a universal check did not hold"
            known = _KNOWN["core.every_exit.exitcode_high_half"]
            why = BaselineRef(reason=known[0], reference=known[1])
            checks.append(Check(clause=clause, verdict="PASS"))
            text = "EXITCODE 00000000_FFFFFFFFh"
            checks.append(
                Check(
                    clause="core.every_exit.exitcode_high_half",
                    verdict="FAIL",
                    news="known",
                    universal=True,
                    baseline=why,
                    summary=text,
                )
            )
        elif verdict not in ("SKIP", "ERROR", "MISS", "CRASH"):
            checks.append(Check(clause=clause, verdict=verdict, news=news, baseline=baseline, summary=reason))
        return Result(
            test=test,
            target=target,
            verdict=verdict,
            worker=self.rng.choice(("gw0", "gw1")),
            clauses=(clause,),
            news=news,
            reason=reason,
            duration_s=self.rng.random() / 9,
            scenario=f"{self.rng.randrange(1 << 48):012x}",
            checks=checks,
            evidence=_evidence(self.rng, clause, self.text()) if verdict in ("FAIL", "CRASH", "HANG", "ERROR") else (),
            fresh=fresh,
            rerun=f"./nsvm run --target {target} -k '{function} and {param[:80]}'" if verdict != "PASS" else "",
        )


def write(path: Path, records: Sequence[Line]) -> Path:
    """Write a run record to `path`."""
    with Writer(path) as writer:
        for record in records:
            writer.write(record)
    return path


def summary_of(path: Path, maker: Maker, change: Callable[[list[Line]], None] | None = None) -> Summary:
    """Make a run, change its records, write and read it, and count it."""
    records = maker.records()
    if change is not None:
        change(records)
    return summarise(load(write(path, records)))


def quiet(*, hostile: bool = False, targets: Sequence[str] = ("qemu-tcg",)) -> Maker:
    """A run in which nothing is new."""
    maker = Maker(targets=targets, hostile=hostile)
    maker.new_clause = maker.mended_clause = ""
    maker.crash = maker.lost = False
    return maker


def interrupted(reason: str = "Ctrl-C") -> Interrupted:
    return Interrupted(reason=reason)
