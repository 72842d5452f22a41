"""`nsvm new`: a test and its clause from a template."""

from __future__ import annotations

import argparse
import re

from harness.cli.console import EXIT_OK, UserError
from harness.cli.paths import ROOT
from harness.judge.clauses import ClauseError, load_clauses

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
class = "mandatory"
trust = ["APM"]
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "new",
        parents=[common],
        help="make a test and its clause from a template",
        description="Writes suites/SUITE/test_NAME.py and adds a clause to suites/SUITE/clauses.toml; both say "
        "TODO where you must write. "
        "Overwrites nothing.",
    )
    parser.add_argument("suite", metavar="SUITE", help="a folder of suites/, for example core")
    parser.add_argument("name", metavar="NAME", help="what it is about, for example asid_reuse")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the two."""
    suites = ROOT / "suites"
    known = (
        sorted(path.name for path in suites.iterdir() if path.is_dir() and any(path.glob("clauses*.toml")))
        if suites.is_dir()
        else []
    )
    if args.suite not in known:
        raise UserError(f"no suite is called {args.suite!r}; there are {', '.join(known) or 'none'}")
    name = args.name.removeprefix("test_").removesuffix(".py")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{args.name!r} cannot name a test: use small letters, digits and underscores, a letter first")
    folder = suites / args.suite
    test = folder / f"test_{name}.py"
    if test.exists():
        raise UserError(f"{test.relative_to(ROOT)} exists already; choose another name or add to it")
    try:
        clauses = load_clauses(suites)
    except ClauseError as error:
        raise UserError(str(error)) from None
    clause = f"{args.suite}.{name}"
    if clause in clauses:
        raise UserError(f"a clause {clause} exists already; choose another name")
    bit = next((c.bit for c in clauses.values() if c.id.startswith(f"{args.suite}.")), args.suite)
    listing = folder / "clauses.toml"
    before = listing.read_text() if listing.exists() else ""
    test.write_text(TEST.format(id=clause, name=name))
    listing.write_text(
        before + ("" if before.endswith("\n") or not before else "\n") + CLAUSE.format(id=clause, bit=bit)
    )
    print(f"{test.relative_to(ROOT)}: write the test")
    print(f"{listing.relative_to(ROOT)}: say what clause {clause} states (at the end)")
    print(f"Then: ./nsvm run {test.relative_to(ROOT)}")
    return EXIT_OK
