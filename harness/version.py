"""The version of nsvm. Read also by the bootstrap, before there is an environment: standard library only."""

from __future__ import annotations

import subprocess
from pathlib import Path

VERSION = "0.1.0"
GIT_DEADLINE_S = 5


def told() -> str:
    """The version, and the commit where this is a clone: `nsvm 0.1.0 (4f2a9be01c7d)`."""
    commit = commit_of(Path(__file__).resolve().parents[1])
    return f"nsvm {VERSION} ({commit[:12]})" if commit else f"nsvm {VERSION}"


def commit_of(root: Path) -> str:
    """The commit that is checked out in `root`; "" where there is no clone or no git."""
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
