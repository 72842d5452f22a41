"""The files of the executor and of nsvm-host know each other one way: no file knows, over others, who knows it.

Hardware enters the executor in three places, from below by nature: the loader, the vectors and the second CPU's start.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.cli.machine import build_executor
from tests.executor.machines import ROOT

ENTRIES = {("boot.s", "main"), ("vectors.s", "exceptions"), ("trampoline.s", "cpu2")}


def known_files(folder: Path) -> dict[str, set[str]]:
    """For each object file, the others that define what it uses."""
    uses: dict[str, set[str]] = {}
    home: dict[str, str] = {}
    for path in sorted(folder.glob("*.o")):
        name = path.name.removesuffix(".o")
        uses[name] = set()
        with path.open("rb") as stream:
            table = ELFFile(stream).get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            for symbol in table.iter_symbols():
                if symbol["st_info"]["bind"] != "STB_GLOBAL":
                    continue
                if symbol["st_shndx"] == "SHN_UNDEF":
                    uses[name].add(symbol.name)
                else:
                    home[symbol.name] = name
    known = {name: {home[used] for used in wanted if used in home} - {name} for name, wanted in uses.items()}
    return {name: {other for other in others if (name, other) not in ENTRIES} for name, others in known.items()}


def circles(known: dict[str, set[str]]) -> set[str]:
    """The files that are left when those that know none of the rest are taken away, again and again."""
    left = {name: set(others) for name, others in known.items()}
    while free := {name for name, others in left.items() if not others}:
        left = {name: others - free for name, others in left.items() if name not in free}
    return set(left)


@pytest.mark.parametrize("program", ["executor", "host_vmm"])
def test_no_circle_among_the_files(program: str) -> None:
    folder = ROOT / "guest_payloads" / program / "build"
    if program == "executor":
        build_executor()
    known = known_files(folder)
    if program == "host_vmm" and not known:
        pytest.skip("nsvm-host is not built here")

    assert len(known) > 15
    assert circles(known) == set()


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}
