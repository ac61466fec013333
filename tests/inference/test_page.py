"""A page is self-contained, shows its blocks, and escapes text."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latens.inference.page import Block, Figure, Gallery, Links, Page, Part, Section, Table, data_uri

VOID = {"meta", "img", "br", "hr", "link"}


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
        if self.open and self.open[-1] != "style":
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
