"""What `nsvm run` does where the user does not say: the environment's `NSVM_TARGET`, `NSVM_N`, `NSVM_OUT` and
`NSVM_POLICY`, then the file `nsvm.toml` of the current folder or of the clone.

    target = ["qemu-tcg", "bochs"]    # or one name
    n = 2                             # workers
    out = "/srv/nsvm"                 # the folder that run folders are made in, in place of runs/
    policy = "xen-nested"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli.console import UserError
from harness.cli.paths import ROOT
from harness.names import nearest

NAME = "nsvm.toml"
KEYS = ("target", "n", "out", "policy")


@dataclass(frozen=True)
class Defaults:
    """As they are where nobody says otherwise."""

    target: tuple[str, ...] = ()
    n: str | None = None
    out: Path | None = None
    """The folder that run folders are made in."""
    policy: str | None = None


def read_defaults(environment: Mapping[str, str] = os.environ, folders: tuple[Path, ...] | None = None) -> Defaults:
    """The environment's before the file's. Raises UserError."""
    file = _file(folders or (Path.cwd(), ROOT))
    given = {key: environment[f"NSVM_{key.upper()}"] for key in KEYS if environment.get(f"NSVM_{key.upper()}")}
    target = given["target"].split(",") if "target" in given else file.get("target", [])
    out = given.get("out", file.get("out"))
    n = given.get("n", file.get("n"))
    return Defaults(
        target=(target,) if isinstance(target, str) else tuple(target),
        n=None if n is None else str(n),
        out=None if out is None else Path(out).expanduser().absolute(),
        policy=given.get("policy", file.get("policy")),
    )


def _file(folders: tuple[Path, ...]) -> Mapping[str, Any]:
    path = next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: {error}") from None
    for key, value in table.items():
        if key not in KEYS:
            raise UserError(f"{path}: there is no {key!r}{nearest(key, KEYS)}")
        texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
        right = isinstance(value, int) if key == "n" else isinstance(value, str) or (key == "target" and texts)
        if not right:
            raise UserError(f"{path}: {key} must be a {'number' if key == 'n' else 'text'}")
    if "out" in table:
        table["out"] = str(path.parent / Path(table["out"]).expanduser())
    if str(table.get("policy", "")).endswith(".toml"):
        table["policy"] = str(path.parent / table["policy"])
    return table
