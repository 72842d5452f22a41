"""`nsvm new`: a test and its clause from a template, and their suite where there is none of that name."""

from __future__ import annotations

import argparse
import difflib
import keyword
import re
from pathlib import Path

from harness.cli.console import EXIT_OK, UserError
from harness.cli.paths import ROOT
from harness.judge.clauses import Clause, ClauseError, load_clauses
from harness.svm.features import SVM_BITS

TEST = '''"""TODO: what this is about, in a sentence.

TODO: what hardware does, and where the APM says so. What a wrong L0 does, and what that costs.
"""

from harness import VMEXIT, clause


@clause("{id}")
def test_{name}(l1):
    """TODO: the sentence this test checks."""
    guest = l1.guest("start: cpuid\\nafter: ud2", intercept=["cpuid"])

    exit = guest.run()

    assert exit.matches(code=VMEXIT.CPUID, rip=guest["start"])
'''

CLAUSE = """
[[clause]]
id = "{id}"
bit = "{bit}"
statement = "TODO: one normative statement, with no 'and' in it."
apm = "TODO: the section of APM volume 2"
class = "{class_}"{condition}
trust = ["APM"]
"""

PACKAGE = '"""TODO: what this suite is about, in a sentence."""\n'
NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
SAME_WORD = 0.85
"""From how alike two names are on, the one is taken for a slip in the other (difflib's ratio)."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "new",
        parents=[common],
        help="make a test and its clause from a template",
        description="Writes suites/SUITE/test_NAME.py and adds a clause to suites/SUITE/clauses.toml; both say TODO "
        "where you must write. Makes the suite if there is none of that name. Overwrites nothing.",
    )
    parser.add_argument("suite", metavar="SUITE", help="a folder of suites/, for example core")
    parser.add_argument("name", metavar="NAME", help="what it is about, for example asid_reuse")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes them. Everything is checked before anything is written."""
    suites = ROOT / "suites"
    name = args.name.removeprefix("test_").removesuffix(".py")
    if not NAME.match(name):
        raise UserError(f"{args.name!r} cannot name a test: use small letters, digits and underscores, a letter first")
    try:
        clauses = load_clauses(suites)
    except ClauseError as error:
        raise UserError(str(error)) from None
    folder = suites / args.suite
    known = sorted({path.parent.name for path in suites.glob("*/clauses*.toml")})
    is_new = args.suite not in known
    if is_new:
        _check_suite(args.suite, folder, known, clauses)
    test = folder / f"test_{name}.py"
    if test.exists():
        raise UserError(f"{test.relative_to(ROOT)} exists already; choose another name or add to it")
    clause = f"{args.suite}.{name}"
    if clause in clauses:
        raise UserError(f"a clause {clause} exists already; choose another name")
    bit = next((c.bit for c in clauses.values() if c.id.startswith(f"{args.suite}.")), _bit_of(args.suite))
    listing = folder / "clauses.toml"
    if is_new:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(PACKAGE)
        print(f"{(folder / '__init__.py').relative_to(ROOT)}: a new suite; say what it is about")
    before = listing.read_text() if listing.exists() else ""
    test.write_text(TEST.format(id=clause, name=name))
    listing.write_text(before + ("" if before.endswith("\n") or not before else "\n") + _clause(clause, bit, before))
    print(f"{test.relative_to(ROOT)}: write the test")
    print(f"{listing.relative_to(ROOT)}: say what clause {clause} states (at the end)")
    print(f"Then: ./nsvm run {test.relative_to(ROOT)}")
    return EXIT_OK


def _check_suite(suite: str, folder: Path, known: list[str], clauses: dict[str, Clause]) -> None:
    """Raises UserError if no suite can be made with that name, or if another one is probably meant."""
    if not NAME.match(suite) or keyword.iskeyword(suite):
        raise UserError(f"{suite!r} cannot name a suite: use small letters, digits and underscores, a letter first")
    if folder.exists() or folder.with_suffix(".py").exists():
        raise UserError(f"suites/{suite} is there and is no suite; there are {', '.join(known) or 'none'}")
    if taken := next((name for name in clauses if name.startswith(f"{suite}.")), None):
        raise UserError(f"a clause {taken} of another suite begins with {suite!r}; choose another name")
    near = difflib.get_close_matches(suite, known, n=1, cutoff=SAME_WORD)
    if near and _bit_of(suite) == suite:
        raise UserError(f"no suite is called {suite!r}; is {near[0]} meant? A new one needs a name less like it")


def _bit_of(suite: str) -> str:
    """The bit of Fn8000_000A EDX that a suite is named after, in the APM's spelling; else the suite's own name."""
    spelt = {n.lower().replace("_", ""): b.name for b in SVM_BITS if not b.reserved for n in (b.name, *b.aliases)}
    return spelt.get(suite.replace("_", ""), suite)


def _clause(name: str, bit: str, before: str) -> str:
    of_bit = any(b.name == bit for b in SVM_BITS if not b.reserved)
    condition = f'\ncondition = "{bit}"' if of_bit else ""
    text = CLAUSE.format(id=name, bit=bit, class_="conditional" if of_bit else "mandatory", condition=condition)
    return text if before else text.lstrip("\n")
