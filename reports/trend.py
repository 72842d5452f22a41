"""Many runs over time: for the terminal, and as a page of its own with small plots."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from markupsafe import Markup

from harness.summary.trend import Point, Trend
from harness.text import line
from reports.page import anchor, digest, environment, raw

WIDTH, HEIGHT = 160, 28
CHANGES_MAX = 500
COUNTED = ("new", "mended", "known", "lost")
DEVIATING = ("new", "mended", "known")


def trend_text(trend: Trend, most: int) -> str:
    """Lines for the terminal: each target's newest run, then what changed."""
    told = []
    for name, points in trend.points.items():
        last = points[-1]
        counts = ", ".join(f"{last.counts[key]} {key}" for key in COUNTED if last.counts[key])
        part = f" ({line(last.part, 200)})" if last.part else ""
        runs = f"{len(points)} run{'s' * (len(points) != 1)}"
        told.append(f"{line(name)}: {runs}; the newest, {line(last.run)}{part}: {counts or 'no deviation'}")
    changes = trend.changes
    for change in changes[:most]:
        other = f"{line(change.before.version, 60)} -> {line(change.now.version, 60)}"
        versions = f" ({other})" if change.before.version != change.now.version else ""
        told.append(f"  {change.word:16} {line(change.clause)} on {line(change.target)}: {change.was} -> "
                    f"{change.verdict} in {line(change.now.run)}{versions}")  # fmt: skip
    told += [f"  and {len(changes) - most} more changes"] if len(changes) > most else []
    return "\n".join(told) + "\n"


def plot(points: Sequence[Point]) -> str:
    """The points of a polyline: how many tests deviate in each run; a whole run's maximum is the top."""
    values = [sum(point.counts[key] for key in DEVIATING) for point in points]
    top = max(values) or 1
    step = WIDTH / max(len(values) - 1, 1)
    return " ".join(f"{n * step:.1f},{HEIGHT - 2 - value * (HEIGHT - 4) / top:.1f}" for n, value in enumerate(values))


def link(point: Point, clause: str = "") -> str:
    """To a run's page, or a clause on it."""
    return quote(f"{point.run}/index.html") + (f"#{anchor('c', clause)}" if clause else "")


def render_trend(trend: Trend) -> str:
    """The page. Its links lead to the runs' own pages, in the folders below it."""
    env = environment()
    style = raw(env, "report.css")
    assert "</" not in style
    page = env.get_template("trend.html.j2").render(
        t=trend,
        latest=trend.latest,
        changes=trend.changes[:CHANGES_MAX],
        left_out=max(0, len(trend.changes) - CHANGES_MAX),
        plot=plot,
        link=link,
        width=WIDTH,
        height=HEIGHT,
        style=Markup(style),
        policy=f"default-src 'none'; style-src {digest(style)}; base-uri 'none'; form-action 'none'",
    )
    return page.lstrip()
