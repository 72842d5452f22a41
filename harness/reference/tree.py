"""QEMU's source with our changes in it. Only files whose content changes are written, so that a rebuild is quick.

Beside the source lies, in `.nsvm-pristine`, every edited file as it came: all edits begin from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.reference import anchors, generate
from harness.reference.anchors import Edit
from harness.reference.error import AnchorError
from harness.reference.faults import Fault
from harness.reference.features import Feature

PRISTINE = ".nsvm-pristine"


def apply(source: Path, features: Sequence[Feature], ours: Path, faults: Sequence[Fault] = ()) -> list[str]:
    """Puts the features' edits and files into the tree at `source`; `ours` is the folder of our C files.

    Gives the names of the files that were written. Raises AnchorError before anything is written.
    """
    edits: dict[str, list[Edit]] = {}
    for feature in features:
        for edit in feature.edits:
            edits.setdefault(edit.file, []).append(edit)
    texts = {file: anchors.apply(_pristine(source, file, of_file[0]), of_file) for file, of_file in edits.items()}
    for file in texts:
        _keep(source, file)
    for path in sorted((source / PRISTINE).rglob("*")):
        file = str(path.relative_to(source / PRISTINE))
        if path.is_file() and file not in texts:
            texts[file] = path.read_text()  # no feature edits it any more
    wanted = {path.name: path.read_text() for path in sorted(ours.glob("*.[ch]"))} | generate.files(features, faults)
    folder = source / generate.FOLDER
    texts |= {f"{generate.FOLDER}/{name}": text for name, text in wanted.items()}
    for path in folder.glob("*"):
        if path.name not in wanted:
            path.unlink()
    return [file for file, text in texts.items() if _write(source / file, text)]


def restore(source: Path) -> None:
    """Takes everything of ours out again."""
    for path in sorted((source / PRISTINE).rglob("*")):
        if path.is_file():
            _write(source / path.relative_to(source / PRISTINE), path.read_text())
    shutil.rmtree(source / PRISTINE, ignore_errors=True)
    shutil.rmtree(source / generate.FOLDER, ignore_errors=True)


def _pristine(source: Path, file: str, edit: Edit) -> str:
    kept = source / PRISTINE / file
    path = kept if kept.is_file() else source / file
    try:
        return path.read_text()
    except OSError as error:
        raise AnchorError(f"{file}: feature {edit.feature}: anchor {edit.anchor!r}: {error.strerror}") from None


def _keep(source: Path, file: str) -> None:
    kept = source / PRISTINE / file
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / file, kept)


def _write(path: Path, text: str) -> bool:
    if path.is_file() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return True
