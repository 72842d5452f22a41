"""The pages of `nsvm explain` about the architecture: VMCB fields, intercepts, exit codes, MSRs, CPUID bits."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping

from harness.judge.clauses import Clause
from harness.summary.category import counted
from harness.svm.bits import Bits
from harness.svm.checks import CHECKS
from harness.svm.condition import features_of
from harness.svm.exits import VMEXIT, InfoFacts, exit_facts
from harness.svm.features import FEATURES, SVM_BITS, feature
from harness.svm.fields import FIELDS, Clean, Field
from harness.svm.intercepts import INTERCEPTS, intercept_exit_code
from harness.svm.msr import MSR, msr_layout, msrpm_position

CLAUSES_MAX = 30

Count = Callable[[str], int]


def pages(name: str, clauses: Mapping[str, Clause], count: Callable[[], Count]) -> list[str]:
    """A page for each thing of this name; none for a name that means nothing here. `count()` is asked for the number of
    tests of a clause, and only where there is a page.
    """
    number = _number(name)
    plain = _plain(name)
    fields = [f for f in FIELDS if _plain(f.name) == plain or (number is not None and _holds(f, number))]
    codes = [c for c in VMEXIT if plain in (_plain(c.name), _plain(f"VMEXIT_{c.name}")) or number == c.value]
    intercepts = {INTERCEPTS[i]: i for i in INTERCEPTS if _plain(i) == plain}
    msrs = [m for m in MSR if plain in (_plain(m.name), _plain(f"MSR_{m.name}")) or number == m.value]
    found = feature(name)
    if not (fields or codes or intercepts or msrs or found):
        return []
    about = _About(clauses, count())
    return [
        *(about.field(each) for each in fields),
        *(about.intercept(each) for each in intercepts.values()),
        *(about.code(each) for each in codes),
        *(about.msr(each) for each in msrs),
        *([about.feature(found.name)] if found else []),
    ]


def names() -> list[str]:
    """All that has a page, for who misspells one."""
    return [
        *(f.name for f in FIELDS), *INTERCEPTS, *(c.name for c in VMEXIT), *(m.name for m in MSR),
        *(n for f in FEATURES.values() for n in (f.name, *f.aliases)),
    ]  # fmt: skip


class _About:
    def __init__(self, clauses: Mapping[str, Clause], count: Count) -> None:
        self._clauses = clauses
        self._count = count

    def field(self, item: Field) -> str:
        """One VMCB field."""
        high = item.bit_offset + item.bit_width - 1
        where = f"{item.offset:03X}h" + (f", bits {high}:{item.bit_offset}" if item.parent else "")
        lines = [f"{item.name}: a field of the VMCB's {item.area} area", "", f"offset     {where}"]
        lines.append(
            f"width      {counted(item.bit_width, 'bit')}" + (f", a part of {item.parent}" if item.parent else "")
        )
        clean = "none: it is read at each VMRUN"
        if item.clean_bit is not None:
            doubt = "" if item.clean_certain else " (the manual's table does not name the field)"
            clean = f"{item.clean_bit} ({Clean(item.clean_bit).name}){doubt}"
        lines += [f"clean bit  {clean}", f"source     AMD64 APM volume 2, {item.apm}"]
        if item.vmload:
            lines.append("loaded     by VMLOAD and saved by VMSAVE; VMRUN and #VMEXIT leave it alone")
        lines.append(f"#VMEXIT    {'writes it' if item.written_by_exit else 'does not write it'}")
        if item.meaning:
            lines.append(f"meaning    {item.meaning}")
        lines += _bit_lines(item.bits)
        rules = [check for check in CHECKS if re.search(rf'["\']{re.escape(item.name)}["\']', _source(check.predicate))]
        if rules:
            lines += ["", "VMRUN's consistency checks that read it:", *(f"  {r.clause}: {r.text}" for r in rules)]
        words = [item.name.upper(), item.name, f"{item.offset:03X}h"]
        return "\n".join([*lines, *self._concerned(words, {r.clause for r in rules})])

    def intercept(self, name: str) -> str:
        """One intercept bit."""
        word, number = INTERCEPTS[name]
        code = intercept_exit_code(name)
        lines = [f"{name}: an intercept", "", f"bit        {number} of {word}", f"exit code  {code:X}h"]
        return "\n".join(lines)

    def code(self, code: VMEXIT) -> str:
        """One exit code."""
        facts = exit_facts(code)
        lines = [f"VMEXIT_{facts.name}: an exit code", "", f"EXITCODE   {code.value:X}h"]
        if facts.needs:
            lines.append(f"needs      {facts.needs}")
        if facts.trap:
            lines.append("saved RIP  after the instruction: it is a trap")
        lines.append(f"nRIP       {'the next instruction, with NRIPS' if facts.nrip else 'zero, with NRIPS'}")
        for label, info in (("EXITINFO1", facts.info1), ("EXITINFO2", facts.info2)):
            lines += _info_lines(label, info)
        return "\n".join([*lines, *self._concerned([f"VMEXIT_{facts.name}", f"{code.value:02X}h"], set())])

    def msr(self, msr: MSR) -> str:
        """One MSR."""
        place = msrpm_position(msr)
        lines = [f"{msr.name}: an MSR", "", f"number     {msr.value >> 16:04X}_{msr.value & 0xFFFF:04X}h"]
        mapped = f"byte {place[0]:X}h, bit {place[1]} for reads, {place[1] + 1} for writes" if place else "not in it"
        lines += [f"MSRPM      {mapped}", *_bit_lines(msr_layout(msr))]
        words = [msr.name, f"{msr.value >> 16:04X}_{msr.value & 0xFFFF:04X}h"]
        return "\n".join([*lines, *self._concerned(words, set())])

    def feature(self, name: str) -> str:
        """One bit of CPUID."""
        item = FEATURES[name]
        svm = next((each for each in SVM_BITS if each.name == name), None)
        lines = [f"{name}: a feature of the CPU" + (f", {svm.title}" if svm else ""), ""]
        lines.append(f"CPUID      {item.where}")
        if item.aliases:
            lines.append(f"also       {', '.join(item.aliases)}")
        if svm:
            lines.append(f"source     AMD64 APM volume 2, {svm.apm}")
        about = {c.id for c in self._clauses.values() if name in features_of(c.condition) or feature(c.bit) is item}
        return "\n".join([*lines, *self._list("clauses of this bit, or with it in their condition:", sorted(about))])

    def _concerned(self, words: Iterable[str], beyond: set[str]) -> list[str]:
        """Clauses whose sentence or note has one of the words; those in `beyond` were listed before."""
        pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(word)}(?![\w])" for word in words))
        told = {c.id: f"{c.statement} {c.note}" for c in self._clauses.values() if c.id not in beyond}
        found = [clause for clause, text in told.items() if pattern.search(text)]
        return self._list("clauses that name it:", found)

    def _list(self, title: str, ids: list[str]) -> list[str]:
        if not ids:
            return []
        lines = ["", title]
        for each in ids[:CLAUSES_MAX]:
            tests = "every VMRUN" if self._clauses[each].universal else counted(self._count(each), "test")
            lines.append(f"  {each} ({tests}): {self._clauses[each].statement}"[:160])
        if len(ids) > CLAUSES_MAX:
            lines.append(f"  ... and {len(ids) - CLAUSES_MAX} more")
        return lines


def _bit_lines(bits: tuple[Bits, ...]) -> list[str]:
    if not bits:
        return []
    lines = ["", "bits:"]
    for run in bits:
        high = run.low + run.width - 1
        values = "  " + ", ".join(f"{value}: {text}" for value, text in run.values.items()) if run.values else ""
        lines.append(f"  {f'{high}:{run.low}' if run.width > 1 else run.low:>6}  {run.name}{values}")
    return lines


def _info_lines(label: str, info: InfoFacts) -> list[str]:
    if not info.defined:
        return [f"{label}  undefined"]
    needs = f" (with {info.needs})" if info.needs else ""
    lines = [f"{label}  {info.meaning or 'by bits'}{needs}, APM {info.apm}"]
    return lines + [line for line in _bit_lines(info.layout) if line and line != "bits:"]


def _source(function: Callable[..., object]) -> str:
    try:
        return inspect.getsource(function)
    except OSError:
        return ""


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").removeprefix("#")


def _number(name: str) -> int | None:
    """`58h`, `0x58`, `C000_0080h`; a plain number is none, as it could be a part of a name."""
    text = name.casefold().replace("_", "")
    digits = text.removesuffix("h") if text.endswith("h") else text.removeprefix("0x") if text.startswith("0x") else ""
    try:
        return int(digits, 16)
    except ValueError:
        return None


def _holds(item: Field, offset: int) -> bool:
    return item.parent is None and item.offset <= offset < item.end
