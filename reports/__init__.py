"""Reports on a run, made from its record alone: an HTML page, JUnit XML, and a table for the terminal."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.record import FILE_NAME, load
from harness.summary import Summary, summarise
from harness.summary.against import read_against
from harness.summary.comparison import Comparison
from reports.brief import SUMMARY_NAME, render_summary

__all__ = ["Rendered", "render_all", "render_html", "render_junit"]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What was written, and what it says."""

    html: Path | None
    junit: Path | None
    summary: Summary
    against: Comparison | None = None
    """What the comparison with an earlier run came to, if there was one."""

    @property
    def exit_status(self) -> int:
        """The run's, or 1 where it is worse than the earlier one."""
        return 1 if self.against is not None and self.against.worse else self.summary.exit_status


def render_all(
    run_dir: str | os.PathLike[str],
    *,
    html: bool | str | os.PathLike[str] = True,
    junit: bool | str | os.PathLike[str] = True,
) -> Rendered:
    """Read `run_dir`/run.jsonl, write index.html, junit.xml (or where a path says) and summary.json next to it.
    What the run was compared with stands in `run_dir`/against.json.

    Each file appears whole or not at all. Raises OSError.
    """
    base = Path(run_dir)
    summary = summarise(load(base / FILE_NAME))
    against = read_against(base)
    html_path = _place(base, "index.html", html)
    junit_path = _place(base, "junit.xml", junit)
    if html_path is not None:
        _write(html_path, render_html(summary, against).encode("utf-8"))
    if junit_path is not None:
        _write(junit_path, render_junit(summary, against))
    _write(base / SUMMARY_NAME, render_summary(summary, against))
    return Rendered(html_path, junit_path, summary, against)


def render_html(summary: Summary, against: Comparison | None = None) -> str:
    """The page as text; see reports/html.py."""
    from reports import html  # here and below: a command that finds the reports written has no use for jinja2

    return html.render_html(summary, against)


def render_junit(summary: Summary, against: Comparison | None = None) -> bytes:
    """The run as JUnit XML; see reports/junit.py."""
    from reports import junit

    return junit.render_junit(summary, against)


def _place(base: Path, name: str, wanted: bool | str | os.PathLike[str]) -> Path | None:
    if isinstance(wanted, bool):
        return base / name if wanted else None
    return Path(wanted)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
