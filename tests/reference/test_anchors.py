"""Edits by anchor, on a made-up source: where they land, and what stops a build."""

from __future__ import annotations

import pytest

from harness.reference.anchors import Edit, apply
from harness.reference.error import AnchorError

SOURCE = """\
/* one(); in a comment */
static int one(int a);

static int one(int a)
{
    if (a) {
        step(a);
    }
    done();
    return a;
}

static G_NORETURN
void two(long name,
         int b)
{
    step(b);
    done();
}

typedef struct Thing {
    int first;
    int last;
} Thing;
"""


def edit(anchor: str, place: str, text: str, **more: object) -> Edit:
    return Edit(feature="f", file="a.c", anchor=anchor, place=place, text=text, **more)  # type: ignore[arg-type]


def lines(edits: list[Edit]) -> list[str]:
    """The lines that are not in SOURCE, and the one before each."""
    after = apply(SOURCE, edits).splitlines()
    return [f"{after[at - 1].strip()} | {line}" for at, line in enumerate(after) if line not in SOURCE.splitlines()]


def test_a_line_after_the_anchor_is_indented_as_the_anchor_is() -> None:
    assert lines([edit("step(a);", "after", "ours(a);")]) == ["step(a); |         ours(a);"]


def test_a_line_before_the_anchor() -> None:
    assert lines([edit("return a;", "before", "ours();\n")]) == ["done(); |     ours();"]


def test_several_lines_keep_their_own_indent_and_preprocessor_lines_the_margin() -> None:
    text = "if (x) {\n    ours();\n}\n#include <x>"
    assert lines([edit("return a;", "before", text)])[:2] == ["done(); |     if (x) {", "if (x) { |         ours();"]
    assert "\n#include <x>\n" in apply(SOURCE, [edit("return a;", "before", text)])


def test_a_replacement_may_quote_what_was_found() -> None:
    assert "wrap(step(a));" in apply(SOURCE, [edit("step(a)", "replace", "wrap(@ANCHOR@)")])


def test_white_space_in_an_anchor_is_any_white_space() -> None:
    assert lines([edit("int first; int last;", "after", "int ours;")]) == ["int last; |     int ours;"]


def test_an_anchor_is_looked_for_in_the_function_named() -> None:
    assert lines([edit("done();", "after", "ours();", function="two")]) == ["done(); |     ours();"]
    assert apply(SOURCE, [edit("done();", "after", "ours();", function="two")]).count("ours") == 1


def test_a_function_begins_at_its_name_so_that_its_parameters_belong_to_it() -> None:
    assert "two(int name," in apply(SOURCE, [edit("long name", "replace", "int name", function="two")])


def test_an_anchor_is_looked_for_in_the_block_named() -> None:
    assert lines([edit("int last;", "before", "int ours;", block="typedef struct Thing {")]) == [
        "int first; |     int ours;"
    ]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"anchor": "gone();"}, "a.c: feature f: anchor 'gone();': is gone"),
        ({"anchor": "done();"}, "a.c: feature f: anchor 'done();': is there 2 times, not once"),
        ({"anchor": "step(b);", "function": "one"}, "a.c: feature f: anchor 'step(b);' in one(): is gone"),
        ({"anchor": "x", "function": "three"}, "a.c: feature f: anchor 'x' in three(): function three is gone"),
        ({"anchor": "x", "block": "union U {"}, "a.c: feature f: anchor 'x': block 'union U {' is gone"),
        ({"anchor": "done();", "times": 3}, "a.c: feature f: anchor 'done();': is there 2 times, not 3"),
    ],
)
def test_an_anchor_without_its_place_stops_the_build_with_one_line(changed: dict[str, object], complaint: str) -> None:
    with pytest.raises(AnchorError) as caught:
        apply(SOURCE, [edit(**{"anchor": "", "place": "after", "text": "x", **changed})])  # type: ignore[arg-type]

    assert str(caught.value) == complaint


def test_an_anchor_may_be_there_as_often_as_was_said() -> None:
    assert apply(SOURCE, [edit("done();", "replace", "ours();", times=2)]).count("ours();") == 2


def test_two_features_at_one_spot_stand_in_their_order() -> None:
    both = [edit("done();", "after", text, function="two") for text in ("first();", "second();")]

    assert "    done();\n    first();\n    second();\n}" in apply(SOURCE, both)


def test_lines_before_and_after_what_another_feature_replaces() -> None:
    edits = [
        edit("return a;", "after", "behind();"),
        edit("return a;", "replace", "return 1;"),
        edit("return a;", "before", "ahead();"),
    ]

    assert "    ahead();\n    return 1;\n    behind();\n" in apply(SOURCE, edits)


def test_an_anchor_is_not_found_in_another_features_lines() -> None:
    with pytest.raises(AnchorError, match="is gone"):
        apply(SOURCE, [edit("return a;", "before", "ours();"), edit("ours();", "after", "more();")])


def test_two_replacements_of_the_same_text_are_refused() -> None:
    other = Edit(feature="g", file="a.c", anchor="return a", place="replace", text="return 2")
    with pytest.raises(AnchorError, match=r"feature g: anchor 'return a': .* replaced by feature f"):
        apply(SOURCE, [edit("return a;", "replace", "return 1;"), other])
