"""Runs compared: for the terminal, and as a page of its own."""

from __future__ import annotations

from pathlib import PurePath

from markupsafe import Markup

from harness.summary.flaky import Comparison, Flaky
from harness.text import line
from reports.page import digest, environment, raw

SHOWN_MAX = 40
REASON_MAX = 200


def flaky_text(comparison: Comparison) -> str:
    """Lines for the terminal: each flaky test with the verdict of each run, the result last."""
    told = []
    for each in comparison.flaky[:SHOWN_MAX]:
        told += [f"flaky  {line(each.test)} on {line(each.target)}", f"       {each.told}"]
        if each.reason:
            told.append(f"       {line(each.reason, REASON_MAX)}")
        if each.rerun:
            told.append(f"       again: {line(again(each))}")
    if len(comparison.flaky) > SHOWN_MAX:
        told.append(f"... and {len(comparison.flaky) - SHOWN_MAX} more")
    told += [f"note: {line(note)}" for note in comparison.notes]
    return "\n".join([*told, comparison.sentence]) + "\n"


def again(each: Flaky) -> str:
    """The command that repeats one test as often as these runs did."""
    return each.rerun.replace("./nsvm run ", f"./nsvm run --repeat {max(len(each.seen), 2)} ", 1)


def render_flaky(comparison: Comparison) -> str:
    """The page. Its links lead to the runs' own pages, in folders next to it that have the runs' names."""
    env = environment()
    style = raw(env, "report.css")
    assert "</" not in style
    page = env.get_template("flaky.html.j2").render(
        c=comparison,
        again=again,
        style=Markup(style),
        policy=f"default-src 'none'; style-src {digest(style)}; base-uri 'none'; form-action 'none'",
        runs=[
            (name, PurePath(name) / "index.html", s)
            for name, s in zip(comparison.names, comparison.summaries, strict=True)
        ],
    )
    return page.lstrip()
