"""Assembly text to bytes and labels, with GNU `as` and `ld`, cached by content.

A process costs milliseconds and a run has thousands of snippets, so they are assembled many at a time: each snippet
is
a section of its own in one file, its labels are given names of their own, and one `ld` puts every section at its
address.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

_VERSION = 2  # part of every cache key: raise it when the output for the same text changes
_PROCESS_DEADLINE_S = 60.0
_LABEL = re.compile(r"(?:^|;|(?<=:))\s*([A-Za-z_][A-Za-z0-9_]*)\s*:(?!:)", re.MULTILINE)
_PREFIX = r"(?:rep(?:n?[ez])?|lock|data(?:16|32)|addr(?:16|32)|rex(?:\.\w+)?|[c-gs]s)"
_STATEMENT = re.compile(rf"((?:\s*[A-Za-z_0-9]+\s*:)*)(\s*(?:{_PREFIX}\s+)*[\w.]*)(.*)", re.DOTALL)
_WORD = re.compile(r"(?<![\w.])[A-Za-z_][A-Za-z0-9_]*\b")
_SET = re.compile(r"\.(?:set|equ)\s+([A-Za-z_][A-Za-z0-9_]*)\s*,")


class AssemblyError(Exception):
    """A snippet does not assemble, or the assembler is missing. The text is one for people."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """Assembly text (Intel syntax), the mode it is for (16, 32 or 64) and the address of its first byte."""

    text: str
    bits: int
    base: int

    @property
    def key(self) -> str:
        """What the result depends on, as a hash."""
        return hashlib.sha256(f"{_VERSION}\0{self.bits}\0{self.base:x}\0{self.text}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Assembled:
    """The bytes, and each label's address."""

    code: bytes
    labels: dict[str, int]


class Assembler:
    """Assembles snippets; `cache` is a folder that several processes may share.

    `processes` counts the runs of `as`, which tests look at.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, Assembled] = {}
        self.processes = 0

    def one(self, snippet: Snippet) -> Assembled:
        """Assembles one snippet. Raises AssemblyError."""
        return self.many([snippet])[0]

    def many(self, snippets: Sequence[Snippet]) -> list[Assembled]:
        """Assembles all of them with as few processes as can be. Raises AssemblyError naming the snippet at fault."""
        missing = {snippet.key: snippet for snippet in snippets if not self._recall(snippet.key)}
        if missing:
            self._assemble(list(missing.values()))
        return [self._known[snippet.key] for snippet in snippets]

    def prefetch(self, snippets: Iterable[Snippet]) -> None:
        """Fills the cache; a snippet that does not assemble is left for the test that owns it to complain about."""
        missing = list({s.key: s for s in snippets if not self._recall(s.key)}.values())
        if not missing:
            return
        try:
            self._assemble(missing)
        except AssemblyError:
            for snippet in missing:
                try:
                    self._assemble([snippet])
                except AssemblyError:
                    continue

    def _recall(self, key: str) -> bool:
        if key in self._known:
            return True
        try:
            stored = json.loads((self._cache / key[:2] / key).read_text())
            self._known[key] = Assembled(
                bytes.fromhex(stored["code"]), {k: int(v) for k, v in stored["labels"].items()}
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def _store(self, key: str, assembled: Assembled) -> None:
        self._known[key] = assembled
        folder = self._cache / key[:2]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as stream:
                json.dump({"code": assembled.code.hex(), "labels": assembled.labels}, stream)
            os.replace(stream.name, folder / key)
        except OSError:
            return  # a cache that cannot be written costs time, not correctness

    def _assemble(self, snippets: list[Snippet]) -> None:
        self.processes += 1
        with tempfile.TemporaryDirectory(prefix="nsvm-as-") as folder:
            source, script = Path(folder, "all.s"), Path(folder, "all.ld")
            source.write_text("".join(_section(n, snippet) for n, snippet in enumerate(snippets)))
            rules = "".join(f".s{n} {snippet.base:#x} : {{ *(.s{n}) }}\n" for n, snippet in enumerate(snippets))
            script.write_text(f"SECTIONS {{ {rules} /DISCARD/ : {{ *(*) }} }}")
            objects, linked = Path(folder, "all.o"), Path(folder, "all.elf")
            _run(["as", "--64", "-o", str(objects), str(source)], snippets)
            _run(
                ["ld", "-n", "--no-check-sections", "-e", "0", "-T", str(script), "-o", str(linked), str(objects)],
                snippets,
            )
            for snippet, assembled in zip(snippets, _read(linked, len(snippets)), strict=True):
                self._store(snippet.key, assembled)


def _section(number: int, snippet: Snippet) -> str:
    names = set(_LABEL.findall(snippet.text)) | set(_SET.findall(snippet.text))
    text = "\n".join(
        ";".join(_rename(part, names, number) for part in line.split(";")) for line in snippet.text.split("\n")
    )
    # The line marker makes the assembler's complaints name the snippet and count its own lines.
    head = f'.section .s{number},"ax",@progbits\n.intel_syntax noprefix\n.code{snippet.bits}\n'
    return f'{head}# 1 "snippet{number}"\n{text}\n'


def _rename(statement: str, names: set[str], number: int) -> str:
    """A statement with its labels renamed; the mnemonic stays, for a label may be called like an instruction."""
    labels, mnemonic, operands = _STATEMENT.fullmatch(statement).groups()  # type: ignore[union-attr]  # matches anything

    def renamed(text: str) -> str:
        return _WORD.sub(lambda word: f"{word[0]}__s{number}" if word[0] in names else word[0], text)

    return renamed(labels) + mnemonic + renamed(operands)


def _run(command: list[str], snippets: list[Snippet]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROCESS_DEADLINE_S, check=False)
    except FileNotFoundError:
        raise AssemblyError(f"{command[0]} is not installed: install binutils") from None
    except subprocess.TimeoutExpired:
        raise AssemblyError(f"{command[0]} did not end within {_PROCESS_DEADLINE_S:.0f} s") from None
    if done.returncode == 0:
        return
    complaint = done.stderr.strip()
    named = re.search(r"snippet(\d+):(\d+): Error: (.*)", complaint)
    if named and int(named[1]) < len(snippets):
        snippet, line = snippets[int(named[1])], int(named[2])
        lines = snippet.text.splitlines()
        shown = lines[line - 1].strip() if 0 < line <= len(lines) else snippet.text
        raise AssemblyError(f"{snippet.bits}-bit code, line {line} `{shown}`: {named[3]}")
    raise AssemblyError(f"{command[0]} failed: {complaint[-800:]}")


def _read(linked: Path, count: int) -> list[Assembled]:
    with linked.open("rb") as stream:
        elf = ELFFile(stream)
        # A section that is empty is left out of the ELF file.
        codes = {section.name: section.data() for section in elf.iter_sections() if section.name.startswith(".s")}
        labels: list[dict[str, int]] = [{} for _ in range(count)]
        for table in elf.iter_sections():
            if not isinstance(table, SymbolTableSection):
                continue
            for symbol in table.iter_symbols():
                name, mark, number = symbol.name.rpartition("__s")
                if mark and number.isdigit() and int(number) < count:
                    labels[int(number)][name] = symbol["st_value"]
    return [Assembled(codes.get(f".s{n}", b""), labels[n]) for n in range(count)]
