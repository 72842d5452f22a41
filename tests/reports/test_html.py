"""The page: nothing in it acts, every link leads somewhere, and it says what the record says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from harness.record import ClauseInfo, CodeLine, Evidence, Line, Result, Row, collect, load
from harness.summary import summarise
from reports import render_all
from reports.html import render_html
from reports.page import anchor, reference, top_reasons
from tests.reports.synthetic import HOSTILE, Maker, interrupted, quiet, summary_of, write

VOID = {"meta", "br", "input", "img", "link", "hr"}


class Page(HTMLParser):
    """What a browser would make of it, roughly: elements with their attributes, text, and how they nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.stack: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.comments: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()
        self.text.append(" " if tag in ("td", "th", "li", "p") else "")

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "script":
            self.scripts.append(data)
        elif not (self.stack and self.stack[-1] == "style"):
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str]]:
        return (attrs for name, attrs in self.elements if name == tag)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def _hostile_everywhere() -> list[Line]:
    """Each hostile text in each field that takes text."""
    out: list[Line] = []
    for number, text in enumerate(HOSTILE):
        maker = Maker(seed=number)
        base = next(r for r in maker.records(end=False) if isinstance(r, Result) and r.evidence)
        evil = text[:2000]
        out.append(
            ClauseInfo(
                id=evil, bit=evil, statement=evil, alias=evil, apm=evil, class_=evil, condition=evil,
                trust=(evil,), hardware=evil, note=evil,
            )
        )  # fmt: skip
        out.append(
            Result(
                test=evil, target=evil, verdict="FAIL", worker=evil, clauses=(evil,), news="new", reason=evil,
                scenario=evil, rerun=evil, checks=base.checks,
                evidence=(Evidence(title=evil, rows=(Row(name=evil, expected=evil, got=evil, meaning=evil),),
                                   frames=(evil,), log=evil),),
            )
        )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("pages")
    makers = {
        "new": Maker(),
        "quiet": quiet(),
        "hostile": Maker(hostile=True),
        "several": Maker(targets=("qemu-tcg", "bochs", "kvm 6.1 & <more>")),
    }
    found = {name: render_html(summary_of(base / f"{name}.jsonl", maker)) for name, maker in makers.items()}
    found["killed"] = render_html(summarise(load(write(base / "killed.jsonl", Maker().records()[:300]))))
    found["empty"] = render_html(summarise(collect([])))
    found["evil"] = render_html(summarise(load(write(base / "evil.jsonl", _hostile_everywhere()))))
    return found


NAMES = ["new", "quiet", "hostile", "several", "killed", "empty", "evil"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_it_acts_but_its_own_script(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])

    assert page.stack == []
    assert page.comments == []
    assert len(page.scripts) == 1 and "alert" not in page.scripts[0]
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"img", "iframe", "object", "embed", "link", "base", "form", "svg", "audio", "video"}
    for tag, attrs in page.elements:
        assert not [
            a for a in attrs if a.startswith("on") or a in ("style", "srcdoc", "src", "action", "background")
        ], tag
        if "href" in attrs:
            assert re.match(r"#|https?://", attrs["href"]), attrs["href"]


@pytest.mark.parametrize("name", NAMES)
def test_its_policy_admits_its_script_and_style_and_no_other(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])

    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", pages[name], re.S)
    assert style is not None
    for text, kind in ((page.scripts[0], "script-src"), (style.group(1), "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("name", NAMES)
def test_no_character_in_it_hides(pages: dict[str, str], name: str) -> None:
    assert all(c.isprintable() or c in "\n\t" for c in pages[name])
    pages[name].encode("utf-8")


def test_hostile_text_is_shown_as_what_it_is(pages: dict[str, str]) -> None:
    words = Page(pages["evil"]).words

    assert "<script>alert('pwned')</script>" in words
    assert r"\x1b[31;5mred\x1b[0m" in words
    assert r"\u202eevitcefed" in words
    assert r"nul\x00 del\x7f" in words and r"lone\ud800" in words
    assert "{{ 7*7 }}" in words
    assert "W" * 3000 not in words


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere_and_ids_are_unique(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])

    ids = Counter(attrs["id"] for _, attrs in page.elements if "id" in attrs)
    assert [i for i, n in ids.items() if n > 1] == []
    for attrs in page.all("a"):
        if attrs["href"].startswith("#"):
            assert attrs["href"][1:] in ids
    for _, attrs in page.elements:
        for name_of in ("aria-labelledby", "aria-describedby", "for"):
            assert attrs.get(name_of, next(iter(ids))) in ids


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_read_without_eyes(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])

    assert next(page.all("html"))["lang"] == "en"
    assert len(list(page.all("h1"))) == 1
    assert all(attrs.get("scope") in ("row", "col") for attrs in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("title" not in attrs for _, attrs in page.elements)


def test_the_order_is_that_of_a_reader(pages: dict[str, str]) -> None:
    page = Page(pages["new"])

    order = [
        "new",
        "mended",
        "lost",
        "bits",
        "machines",
        "known",
        "fresh",
        "events",
        "universal",
        "clauses",
        "skips",
        "reading",
    ]
    assert [attrs["id"] for tag, attrs in page.elements if tag == "h2"] == order


def test_the_counts_on_it_are_those_of_the_summary(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker())

    text = render_html(summary)

    counts = re.search(r'<ul class="counts".*?</ul>', text, re.S)
    assert counts is not None
    found = [int(n) for n in re.findall(r"<b>(\d+)</b>", counts.group())]
    assert found == [
        summary.tests, summary.passed, summary.new, summary.mended, summary.known, summary.skipped, summary.lost,
    ]  # fmt: skip
    assert found[0] == sum(found[1:])
    assert summary.sentence in Page(text).words


def test_tests_that_deviate_in_universal_checks_only_stand_apart(tmp_path: Path) -> None:
    single = Page(render_html(summary_of(tmp_path / "run.jsonl", quiet()))).words
    beside = Page(render_html(summary_of(tmp_path / "two.jsonl", quiet(targets=("qemu-tcg", "bochs"))))).words

    assert "(3 in universal checks only)" in single and "Universal only" in single
    assert "3 known in universal checks only" in beside
    without = render_html(summary_of(tmp_path / "none.jsonl", quiet(targets=("bochs",))))
    assert "universal checks only" not in without and "Universal only" not in without


def test_each_deviation_has_its_place_linked_from_its_clause_and_back(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run.jsonl", Maker(targets=("qemu-tcg", "bochs")))

    text = render_html(summary)

    for deviation in summary.deviations:
        where = anchor("d", deviation.category, deviation.target, deviation.clause.info.id)
        clause = anchor("c", deviation.clause.info.id)
        row = re.search(rf'<tr class="find" id="{re.escape(clause)}".*?\n</tr>', text, re.S)
        assert row is not None and f'href="#{where}"' in row.group()
        card = re.search(
            rf'id="{re.escape(where)}".*?</(article|details)>\n(<article|<details class="card|</section)', text, re.S
        )
        assert card is not None and f'href="#{clause}"' in card.group()


def test_new_deviations_show_all_that_one_needs(pages: dict[str, str]) -> None:
    words = Page(pages["new"]).words

    for text in (
        "Without the bit 0C8h is not written at #VMEXIT.",
        "APM volume 2, 15.7.1",
        "parts of family Fh",
        "FFFFFFFF_FFFFFFFF",
        "◀ exit here",
        "Last frames on the link (16)",
        "./nsvm run --target qemu-tcg -k 'test_field_is_not_written and case2'",
        "Run again on a fresh boot: the same.",
    ):
        assert text in words


def test_known_deviations_show_reason_and_reference_and_one_evidence(pages: dict[str, str]) -> None:
    text = pages["new"]

    card = text[text.index('id="d-known_qemu') if 'id="d-known_qemu' in text else text.index('id="d-known~qemu') :]
    card = card[: card.index('<details class="card known find"')]
    assert "CR4 is not checked against the reserved bits" in card
    assert card.count('class="evidence"') == 1
    assert "All 16 tests" in card
    assert 'href="https://gitlab.example.org/qemu/issues/1234"' in text


def test_a_killed_run_says_so_first(pages: dict[str, str]) -> None:
    text = pages["killed"]

    assert "This run was cut short" in text
    assert text.index("This run was cut short") < text.index('id="machines"')
    assert "clauses have no verdict" in text
    assert "nothing new" not in text
    assert "This run was cut short" not in pages["quiet"]


def test_an_empty_record_claims_nothing(pages: dict[str, str]) -> None:
    words = Page(pages["empty"]).words

    assert "nothing was judged" in words
    assert "not conclusive" in words or "cut short" in words
    assert "no new deviation" not in words


def test_a_contradiction_is_on_the_page(tmp_path: Path) -> None:
    def lose(records: list[Line]) -> None:
        records.remove(next(r for r in records if isinstance(r, Result)))

    text = render_html(summary_of(tmp_path / "run.jsonl", quiet(), lose))

    assert "The record is damaged or contradicts itself" in text
    assert "results are missing" in text
    assert "not conclusive" in text


def test_an_interrupted_run_says_why(tmp_path: Path) -> None:
    text = render_html(
        summary_of(tmp_path / "run.jsonl", quiet(), lambda records: records.insert(-1, interrupted("SIGTERM")))
    )

    assert "This run was interrupted" in text and "SIGTERM" in text
    assert '<span class="badge lost">interrupted</span>' in text and "nothing new" not in text


def test_bits_without_clauses_are_one_line_each_reason(pages: dict[str, str]) -> None:
    words = Page(pages["quiet"]).words

    assert "Offered, and nothing here judges them: 28 SVME_ADDR_CHK." in words
    assert "31 EnhancedShutdownIntercept" in words[words.index("No clauses yet, and not offered: ") :]
    assert "Reserved bits, nothing to ask: 9, 11, 14, 22" in words
    assert "EnhancedShutdownIntercept enhanced shutdown intercept" not in words


def test_the_tiles_lead_somewhere_and_are_red_where_something_is_new(pages: dict[str, str]) -> None:
    tiles = pages["new"][pages["new"].index('<ul class="counts"') :]
    tiles = tiles[: tiles.index("</ul>")]

    assert re.search(r'<li class="new"><a href="#new"><b>\d+</b> new deviations', tiles)
    assert re.search(r'<li class="lost"><a href="#lost"><b>2</b> without a verdict', tiles)
    assert '<li class="quiet"><b>0</b> new deviations' in pages["quiet"]


def test_one_search_goes_over_everything(pages: dict[str, str]) -> None:
    page = Page(pages["new"])
    found = [attrs for _, attrs in page.elements if "find" in attrs.get("class", "").split()]
    kinds = Counter(attrs.get("data-kind", "") for attrs in found)

    assert [attrs["id"] for attrs in page.all("input")] == ["filter-text", "print-all"]
    assert all(kinds[kind] for kind in ("new", "mended", "known", "lost", "skipped", "passed", ""))


def test_paper_has_the_short_view(pages: dict[str, str]) -> None:
    page = Page(pages["new"])
    long = {attrs["aria-labelledby"] for attrs in page.all("section") if attrs.get("class") == "long"}

    assert long == {"machines", "known", "fresh", "events", "universal", "clauses", "skips", "reading"}
    assert "Printed short" in page.words and "body:not(.print-all) .long" in pages["new"]


def test_the_users_own_command_is_shown(tmp_path: Path) -> None:
    assert "Command: ./nsvm run --target qemu-tcg" in Page(render_html(summary_of(tmp_path / "r.jsonl", Maker()))).words


def test_several_targets_stand_side_by_side(pages: dict[str, str]) -> None:
    text = pages["several"]

    head = re.search(r'aria-describedby="bits-what">\n<thead>(.*?)</thead>', text, re.S)
    assert head is not None
    columns = re.findall(r"<th[^>]*>(.*?)</th>", head.group(1))
    assert columns == ["Bit", "Name", "Clauses", "qemu-tcg", "bochs", "kvm 6.1 &amp; &lt;more&gt;"]


def test_a_big_run_stays_small(tmp_path: Path) -> None:
    big = Evidence(
        title="big",
        rows=[Row(name=f"n{i}", expected="x" * 300, got="y" * 300, meaning="z" * 300) for i in range(200)],
        frames=["f" * 2000] * 200,
        log="l" * 60_000,
    )

    def grow(records: list[Line]) -> None:
        del records[-1]
        for c in range(300):
            records.append(
                ClauseInfo(id=f"np.many.{c}", bit="NP", statement="S" * 150, apm="15.25", trust=("APM", "XEN"))
            )
            for t in range(8):
                news = "new" if c < 100 and t < 4 else "ok"
                records.append(
                    Result(
                        test=f"suites/np/test_many.py::test_{c}[{t}]", target="qemu-tcg",
                        verdict={"new": "FAIL"}.get(news, "PASS"),
                        news=news, clauses=(f"np.many.{c}",), reason="r" * 200, rerun="./nsvm run -k " + "k" * 80,
                        evidence=(big,) if news == "new" else (),
                    )
                )  # fmt: skip

    text = render_html(summary_of(tmp_path / "run.jsonl", Maker(), grow))

    assert len(text.encode()) < 3_000_000
    assert "left out here to keep the page small" in text


def test_a_reference_is_a_link_only_if_it_is_nothing_but_one() -> None:
    assert str(reference("https://example.org/a?b=1&c")).startswith('<a href="https://example.org/a?b=1&amp;c"')
    for text in (
        "javascript:alert(1)",
        "see https://example.org",
        'https://x.org/"onclick="y',
        "https://x.org/<b>",
        "http://",
    ):
        assert reference(text) == text


def test_skips_of_a_bit_are_told_by_their_reasons_and_the_rest_by_number() -> None:
    assert top_reasons(Counter(a=3, b=2)) == [("a", 3), ("b", 2)]
    assert top_reasons(Counter(a=3, b=2, c=1, d=1)) == [("a", 3), ("b", 2), ("for other reasons, see Skips", 2)]


def test_anchors_differ_where_names_differ() -> None:
    names = ["a.b", "a b", "a_b", "a~b", "A.b", "x" * 300, "x" * 301, "", "\ud800"]

    assert len({anchor("c", n) for n in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]+", anchor("c", n)) for n in names)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "paper"])
def test_text_has_contrast(pages: dict[str, str], scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", pages["quiet"], re.S)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6}|transparent)", blocks[scheme]))
    pairs = [("text", "bg"), ("muted", "bg"), ("link", "bg"), ("text", "panel"), ("muted", "panel"), ("known-f", "bg")]
    pairs += [(f"{k}-f", f"{k}-b") for k in ("pass", "fail", "crash", "hang", "skip", "lost", "new", "mended")]
    pairs += [("text", "mark-b")]

    for front, back in pairs:
        light, dark = sorted((_luminance(colours[front]), _luminance(colours[back])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


def test_render_all_writes_both_files_whole(tmp_path: Path) -> None:
    write(tmp_path / "run.jsonl", quiet().records())

    done = render_all(tmp_path)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "junit.xml", "run.jsonl", "summary.json"]
    assert done.html is not None and done.html.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert done.summary.exit_status == 0
    assert render_all(tmp_path, html=False, junit=tmp_path / "x" / "j.xml").html is None
    assert (tmp_path / "x" / "j.xml").exists()


def test_a_label_is_shown_but_only_a_mark_is_lit(tmp_path: Path) -> None:
    code = [
        CodeLine(addr="0082_0000h", bytes="0f a2", text="cpuid", mark="start:"),
        CodeLine(addr="0082_0002h", bytes="0f 01 d9", text="vmmcall", mark="after: saved RIP"),
    ]
    result = Result(test="a.py::t", target="t", verdict="FAIL", news="new", evidence=[Evidence(code=code)])

    text = render_html(summarise(collect([result])))

    assert re.findall(r"<mark>(\S+)", text) == ["0082_0002h"]
    assert '<span class="muted">start:</span>' in text


def test_parameters_that_fail_in_the_same_words_are_one_row_and_one_evidence(tmp_path: Path) -> None:
    def result(param: str, reason: str) -> Result:
        found = (Evidence(title=f"evidence of {param}"),)
        return Result(test=f"a.py::t[{param}]", target="t", verdict="FAIL", news="new", reason=reason, evidence=found)

    text = render_html(summarise(collect([result("p", "one"), result("q", "one"), result("r", "two")])))

    assert [f"evidence of {p}" in text for p in "pqr"] == [True, False, True]
    assert "<code>a.py::t</code> <small>2:</small> <code>p</code>, <code>q</code>" in text
