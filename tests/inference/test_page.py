"""A page is self-contained, shows its blocks, and escapes text."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.browser import headless, needs_chromium

from latens.inference.page import (
    SCRIPT,
    Block,
    Columns,
    Compare,
    Figure,
    Gallery,
    Layer,
    Links,
    Overlays,
    Page,
    Part,
    Section,
    Summary,
    Table,
    data_uri,
)

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Collects text and attributes, and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data.strip())

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


def read(page: Page) -> Reader:
    reader = Reader()
    reader.feed(page.html())
    reader.close()
    assert reader.open == []
    return reader


def image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def page() -> Page:
    table = Table(["name", "bpp"], [["a & b", "0.25"], ["c", "-1.5 %"]], "caption of the table")
    gallery = Gallery([Figure(image("PNG"), "one"), Figure(b"", "note"), Figure(image("JPEG"), "two")], columns=3)
    part = Part("part of it", [gallery, Links("Files:", ["folder/a b.ltn"])])
    blocks: list[Block] = ["a paragraph", Figure(image("WEBP"), "whole", "the caption", pixelated=True), table]
    return Page("the title", [Section("first", blocks, [part]), Section("second", [])], "the lead", "the footer")


def test_everything_is_on_the_page(page: Page) -> None:
    texts = read(page).texts
    for expected in (
        *("the title", "the lead", "the footer", "first", "second", "part of it", "a paragraph", "whole"),
        *("the caption", "name", "bpp", "a & b", "0.25", "caption of the table", "one", "note", "two", "a b.ltn"),
    ):
        assert expected in texts


def test_images_are_inside_and_nothing_is_fetched(page: Page) -> None:
    reader = read(page)
    sources = reader.values("img", "src")
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [
        image("WEBP"),
        image("PNG"),
        image("JPEG"),
    ]
    assert [source.partition(";")[0] for source in sources] == ["data:image/webp", "data:image/png", "data:image/jpeg"]
    assert reader.values("img", "width") == ["5"] * 3
    assert reader.values("img", "height") == ["4"] * 3
    assert reader.values("a", "href") == ["#section-1", "#section-2", "folder/a%20b.ltn"]
    assert set(reader.values("section", "id")) == {"section-1", "section-2"}
    tags = {tag for tag, _, _ in reader.attributes}
    assert tags.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"https?://|url\(|@import", page.html())


def test_text_is_not_taken_for_markup() -> None:
    evil = "<script>alert('x')</script>\"&"
    figure = Figure(image("PNG"), evil, evil, alt=evil)
    blocks: list[Block] = [evil, figure, Table([evil], [[evil]], evil), Links(evil, [evil])]
    html = Page(evil, [Section(evil, blocks, [Part(evil, [evil])]), Section(evil, [])], evil, evil).html()
    assert "<script" not in html
    reader = Reader()
    reader.feed(html)
    assert reader.texts.count(evil) >= 10
    assert reader.values("img", "alt") == [evil]


def test_columns_of_numbers_are_recognized() -> None:
    table = Table(["a", "b", "c", "d"], [["1", "+3.5 %", "x1", "-"], ["-2.5e-3", "12,345", "2", "0.1"]])
    assert [table.is_text(i) for i in range(4)] == [False, False, True, False]


def test_table_for_a_terminal() -> None:
    table = Table(["name", "bpp"], [["é", "0.25"], ["longer", "10"], ["日本", "7"]], "caption")
    assert table.text().splitlines() == [
        "name     bpp",
        "------  ----",
        "é       0.25",
        "longer    10",
        "日本       7",
        "caption",
    ]


def test_save_makes_the_folder_and_leaves_nothing_else(page: Page, tmp_path: Path) -> None:
    target = tmp_path / "new" / "index.html"
    page.save(target)
    page.save(target)
    assert target.read_text(encoding="utf-8") == page.html()
    assert list(target.parent.iterdir()) == [target]


def test_kinds_of_images() -> None:
    assert data_uri(image("AVIF")).startswith("data:image/avif;base64,")
    assert data_uri(image("GIF")).startswith("data:image/gif;base64,")
    with pytest.raises(ValueError, match="PNG"):
        data_uri(b"<svg></svg>")


def square(value: int, side: int = 40, alpha: int | None = None) -> bytes:
    buffer = io.BytesIO()
    color = (value, value, value) if alpha is None else (value, 0, 0, alpha)
    Image.new("RGB" if alpha is None else "RGBA", (side, side), color).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def living() -> Page:
    """A page with a comparison, overlays, folded blocks and summaries."""
    compare = Compare(Figure(square(0), "black"), Figure(square(255), "white"), "black and white")
    overlays = Overlays(
        Figure(square(90), "gray"),
        [Layer(Figure(square(255, alpha=90), "red")), Layer(Figure(square(200), "light"), shown=False)],
    )
    summary = Summary("squares", "other squares", "-50 %", "of the bytes", "latens compress squares/ -o small/")
    chart = Figure(square(255), "a chart", chart=True)
    parts = [Part("more squares", [chart], folded=True)]
    return Page("squares", [Section("Squares", [Columns([compare, "text"]), overlays], parts, summary), Section("none", [])])


def test_summaries_are_above_the_sections(living: Page) -> None:
    reader = read(living)
    for text, times in (("squares", 4), ("other squares", 2), ("-50 %", 2), ("latens compress squares/ -o small/", 1)):
        assert reader.texts.count(text) == times, text
    assert reader.values("a", "href") == ["#section-1"]
    assert reader.texts.index("-50 %") < reader.texts.index("more squares")


def test_a_comparison_brings_its_script_and_the_policy_allows_no_other(living: Page, page: Page) -> None:
    html = living.html()
    script = SCRIPT.read_text(encoding="utf-8")
    assert html.count("<script>") == 1
    assert f"<script>{script}</script>" in html
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in html or f"script-src 'sha256-{digest}'" in html
    assert "script" not in page.html()


def test_the_alternatives_of_images_and_controls(living: Page) -> None:
    reader = read(living)
    assert reader.values("img", "alt") == ["white", "black", "gray", "red", "light", "a chart"]
    assert reader.values("input", "aria-label") == ["black on the left, white on the right"]
    assert reader.values("input", "id") == reader.values("label", "for") == ["layer-1", "layer-2"]


@needs_chromium
def test_a_page_in_a_browser(living: Page, tmp_path: Path) -> None:
    living.save(tmp_path / "page.html")
    with headless() as browser:
        browser.open((tmp_path / "page.html").as_uri(), width=390)
        assert browser.errors == []
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        position = "document.querySelector('.compare').style.getPropertyValue('--at')"
        assert browser.evaluate(position) == "50%"
        browser.evaluate("document.querySelector('.compare input').focus()")
        browser.press("ArrowRight")
        assert browser.evaluate(position) == "50.5%"
        browser.press("Home")
        assert browser.evaluate(position) == "0%"
        shown = "[...document.querySelectorAll('.overlays img')].map(image => getComputedStyle(image).display != 'none')"
        assert browser.evaluate(shown) == [True, True, False]
        browser.evaluate("document.querySelector('#layer-1').focus()")
        browser.press(" ")
        browser.evaluate("document.querySelector('label[for=layer-2]').click()")
        assert browser.evaluate(shown) == [True, False, True]
        browser.open((tmp_path / "page.html").as_uri(), width=390, dark=True)
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        assert browser.requests == [(tmp_path / "page.html").as_uri()] * 2


@needs_chromium
@pytest.mark.parametrize("touch", [False, True])
def test_the_line_follows_mouse_and_finger(living: Page, touch: bool, tmp_path: Path) -> None:
    living.save(tmp_path / "page.html")
    with headless() as browser:
        browser.open((tmp_path / "page.html").as_uri(), width=390, touch=touch)
        box = browser.evaluate("(b => [b.x, b.y, b.width, b.height])(document.querySelector('.stage').getBoundingClientRect())")
        middle = box[1] + box[3] / 2
        browser.drag((box[0] + box[2] / 2, middle), (box[0] + box[2] * 0.8, middle), touch=touch)
        at = browser.evaluate("document.querySelector('.compare').style.getPropertyValue('--at')")
        assert abs(float(at.removesuffix("%")) - 80) < 4
        browser.screenshot(tmp_path / "page.png")
        shown = np.asarray(Image.open(tmp_path / "page.png").convert("L")).astype(int)
        row = round(box[1] + box[3] * 0.8)
        assert shown[row, round(box[0] + box[2] * 0.6)] < 10  # `before` is left of the line
        assert shown[row, round(box[0] + box[2] * 0.95)] > 245
