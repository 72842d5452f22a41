"""Hooks files: what they may say, and what is written for the compiler from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.reference import generate, recipe, tree
from harness.reference.error import AnchorError, ReferenceMachineError
from harness.reference.features import BITS, load, load_all
from harness.svm.features import SVM_BITS

TOML = """\
[feature]
what = "a feature"
bits = ["NRIPS"]
sources = ["one.c"]
helpers = ["DEF_HELPER_1(one, void, env)"]

[[state]]
name = "last"
type = "uint64_t"
count = 2

[[state]]
name = "scratch"
type = "Thing"
migrate = false

[[property]]
name = "x-nsvm-seed"
member = "seed"
kind = "uint32"
default = 7

[[edit]]
file = "a/b.c"
anchor = "done();"
after = "ours();"
what = "a hook"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("hooks", "src"):
        (tmp_path / name).mkdir()
    (tmp_path / "src/one.c").write_text("int one;\n")
    (tmp_path / "hooks/one.toml").write_text(TOML)
    return tmp_path


def test_a_hooks_file_is_read(folder: Path) -> None:
    feature = load(folder / "hooks/one.toml")

    assert (feature.name, feature.bits, feature.order) == ("one", ("NRIPS",), 50)
    assert [(e.feature, e.file, e.place, e.text, e.times) for e in feature.edits] == [
        ("one", "a/b.c", "after", "ours();", 1)
    ]


def test_the_compiler_is_told_of_it(folder: Path) -> None:
    files = generate.files([load(folder / "hooks/one.toml")])

    assert "        uint64_t last[2];\n        Thing scratch;\n    } one;" in files["state.h"]
    assert "VMSTATE_UINT64_ARRAY(env.nsvm.one.last, X86CPU, 2)" in files["vmstate.c.inc"]
    assert "scratch" not in files["vmstate.c.inc"]
    assert 'DEFINE_PROP_UINT32("x-nsvm-seed", X86CPU, env.nsvm_config.one.seed, 7),' in files["properties.h.inc"]
    assert "#define NSVM_SVM_BITS (0 | CPUID_SVM_NRIPSAVE)" in files["features.h"]
    assert "'one.c'," in files["meson.build"] and "DEF_HELPER_1(one, void, env)" in files["helper.h.inc"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('what = "a feature"', "", r"one.toml: \[feature\] must say `what` it is"),
        ('["NRIPS"]', '["NRIP"]', "one.toml: no bit is called 'NRIP'"),
        ('["one.c"]', '["two.c"]', "one.toml: there is no src/two.c"),
        ("after =", "behind =", r"one.toml: \[\[edit\]\] has 'behind'"),
        ('after = "ours();"', "", "one.toml: .* give one of before, after, replace"),
        ('what = "a hook"', "", "one.toml: .* `what` is missing"),
        ("migrate = false", "", "one.toml: .* scratch: a saved machine cannot keep a Thing: migrate = false"),
        ("x-nsvm-seed", "seed", "one.toml: .* the name must begin with x-nsvm"),
        ("a/b.c", "/etc/passwd", "one.toml: .* from the top of QEMU's source"),
        ("[[state]]", "[[state", "one.toml: "),
    ],
)
def test_what_is_wrong_with_one_is_one_line(folder: Path, old: str, new: str, complaint: str) -> None:
    path = folder / "hooks/one.toml"
    path.write_text(TOML.replace(old, new, 1))

    with pytest.raises(ReferenceMachineError, match=complaint) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_features_come_by_order_then_by_name(folder: Path) -> None:
    for name, order in (("zz", 10), ("aa", 50), ("mm", 10)):
        (folder / f"hooks/{name}.toml").write_text(f'[feature]\nwhat = "x"\norder = {order}\n')

    assert [feature.name for feature in load_all(folder / "hooks")] == ["mm", "zz", "aa", "one"]


def test_bits_are_named_as_the_apm_does() -> None:
    assert set(BITS) <= {bit.name for bit in SVM_BITS}


def source(tmp_path: Path) -> Path:
    place = tmp_path / "qemu"
    (place / "a").mkdir(parents=True)
    (place / "a/b.c").write_text("x();\ndone();\ny();\n")
    return place


def test_a_tree_is_edited_and_edited_again_from_the_start(folder: Path, tmp_path: Path) -> None:
    place = source(tmp_path)
    path = folder / "hooks/one.toml"

    written = tree.apply(place, [load(path)], folder / "src")
    assert "a/b.c" in written and "target/i386/nsvm/one.c" in written
    assert (place / "a/b.c").read_text() == "x();\ndone();\nours();\ny();\n"

    assert tree.apply(place, [load(path)], folder / "src") == [], "nothing has changed: nothing is compiled again"

    path.write_text(TOML.replace("ours();", "others();"))
    assert tree.apply(place, [load(path)], folder / "src") == ["a/b.c"]
    assert (place / "a/b.c").read_text() == "x();\ndone();\nothers();\ny();\n"

    path.write_text(TOML.split("[[edit]]")[0])
    (folder / "src/one.c").unlink()
    (folder / "src/one.c").write_text("int two;\n")
    assert tree.apply(place, [load(path)], folder / "src") == ["a/b.c", "target/i386/nsvm/one.c"]
    assert (place / "a/b.c").read_text() == "x();\ndone();\ny();\n"


def test_a_lost_anchor_leaves_the_tree_as_it_was(folder: Path, tmp_path: Path) -> None:
    place = source(tmp_path)
    (place / "a/b.c").write_text("x();\n")

    with pytest.raises(AnchorError, match=r"^a/b.c: feature one: anchor 'done\(\);': is gone$"):
        tree.apply(place, [load(folder / "hooks/one.toml")], folder / "src")
    assert not (place / "target").exists() and (place / "a/b.c").read_text() == "x();\n"


def test_a_file_that_qemu_no_longer_has_is_one_line(folder: Path, tmp_path: Path) -> None:
    place = source(tmp_path)
    (place / "a/b.c").unlink()

    with pytest.raises(AnchorError, match=r"^a/b.c: feature one: anchor .*: No such file"):
        tree.apply(place, [load(folder / "hooks/one.toml")], folder / "src")


def test_the_projects_own_hooks_can_be_read() -> None:
    mine = recipe.load()

    assert mine.features[0].name == "core" and "NRIPS" in mine.bits
    assert all(
        path.read_text().startswith("/* SPDX-License-Identifier: GPL-2.0-or-later */\n")
        for path in (recipe.OURS / "src").glob("*.[ch]")
    )
    hooked = {name for feature in mine.features for name in (*feature.sources, *feature.headers)}
    for edit in (edit for feature in mine.features for edit in feature.edits):
        hooked |= set(re.findall(r'#include "target/i386/nsvm/(\w+\.h)"', edit.text))  # the translator's parts
    assert {path.name for path in (recipe.OURS / "src").glob("*.[ch]")} <= hooked


def test_the_key_changes_with_what_goes_in_and_not_with_comments(folder: Path) -> None:
    (folder / "qemu.toml").write_text((recipe.OURS / "qemu.toml").read_text())
    first = recipe.load(folder).key

    (folder / "hooks/one.toml").write_text(f"# a comment\n{TOML}clauses = ['core.x']\n".replace("a hook", "why it is"))
    assert recipe.load(folder).key == first
    (folder / "hooks/one.toml").write_text(TOML.replace("ours();", "our();"))
    assert recipe.load(folder).key != first
    (folder / "hooks/one.toml").write_text(TOML)
    (folder / "src/one.c").write_text("int three;\n")
    assert recipe.load(folder).key != first
