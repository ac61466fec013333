"""The sections of `latens demo`, made by the bundled models: what a reader and a browser can rely on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.browser import Browser, headless, needs_chromium

from latens.catalogue import SYSTEMS, default_model
from latens.cli.main import build_app
from latens.contract import open_system
from latens.inference.page import Block, Columns, Compare, Figure, Gallery, Links, Overlays, Page, Section

LIMIT = 8_000_000  # bytes of the whole page
BUDGETS = {  # bytes of the page with one section
    "image_codec": 2_800_000,
    "amodal": 700_000,
    "haze": 1_700_000,
    "parts": 600_000,
    "video_codec": 600_000,
    "flow": 300_000,
    "seedlings": 1_000_000,
}
COMPARED_BY_PIXEL = ("image_codec", "haze", "video_codec")
LAYERS = {"amodal": 10, "parts": 12, "video_codec": 1}  # checkboxes


class Shown(NamedTuple):
    name: str
    section: Section
    page: Path
    html: str


@pytest.fixture(scope="module")
def shown(system_name: str, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp(f"demo-{system_name}")
    opened = open_system(system_name)
    assert opened.demo is not None
    section = opened.demo(opened.load(default_model(system_name), device="cpu", threads=1), folder / system_name)
    page = Page("latens", [section])
    page.save(folder / "index.html")
    return Shown(system_name, section, folder / "index.html", page.html())


def every(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Columns):
            yield from every(block.blocks)


def blocks_of(section: Section) -> list[Block]:
    return [*every(section.blocks), *(block for part in section.parts for block in every(part.blocks))]


def test_the_budgets_are_those_of_the_page() -> None:
    assert set(BUDGETS) == set(SYSTEMS)
    assert sum(BUDGETS.values()) <= LIMIT


def test_a_section_is_self_contained_and_within_its_budget(shown: Shown) -> None:
    assert len(shown.html) <= BUDGETS[shown.name]
    assert not re.search(r"https?://|url\(|@import", shown.html)
    links = [link for block in blocks_of(shown.section) if isinstance(block, Links) for link in block.links]
    assert links
    assert [link for link in links if not (shown.page.parent / link).exists()] == []


def test_every_image_is_described_and_compared_pixels_are_lossless(shown: Shown) -> None:
    alternatives = re.findall(r'<img [^>]*?alt="([^"]*)"', shown.html)
    assert len(alternatives) == shown.html.count("<img")
    assert all(alternatives)
    blocks = blocks_of(shown.section)
    compared = [figure for block in blocks if isinstance(block, Compare) for figure in block[:2]]
    assert (len(compared) > 0) == (shown.name in (*COMPARED_BY_PIXEL, "seedlings"))
    if shown.name in COMPARED_BY_PIXEL:
        assert {figure.image[12:16] for figure in compared} == {b"VP8L"}  # lossless WebP
    for block in blocks:
        if isinstance(block, Gallery):  # everything else is small
            assert all(_is_avif(one) or one.pixelated or not one.image for one in block.figures)
    layers = [layer for block in blocks if isinstance(block, Overlays) for layer in block.layers]
    assert len(layers) == LAYERS.get(shown.name, 0)
    assert all(len(block.layers) <= 4 for block in blocks if isinstance(block, Overlays))


def _is_avif(figure: Figure) -> bool:
    return figure.image[4:12] == b"ftypavif"


def test_the_summary_has_a_number_and_a_command_that_parses(shown: Shown) -> None:
    summary = shown.section.summary
    assert summary is not None
    assert re.search(r"\d", summary.number)
    program, verb, *words = shlex.split(summary.command)
    assert program == "latens"
    _, bound, _ = build_app(verb).parse_args([verb, *words], print_error=False, exit_on_error=False)
    assert bound.arguments


@needs_chromium
def test_a_browser_shows_all_of_it(shown: Shown) -> None:
    address = shown.page.as_uri()
    with headless() as browser:
        for width in (1280, 390):
            browser.open(address, width=width, touch=width < 500)
            browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            browser.evaluate("Promise.all([...document.images].map(image => image.decode()))")
            assert browser.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
            assert browser.evaluate("document.images.length") == shown.html.count("<img")
            assert browser.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
        lines_move(browser)
        layers_are_shown_and_hidden(browser)
        assert browser.errors == []
        assert browser.requests == [address, address]


def lines_move(browser: Browser) -> None:
    for number in range(browser.evaluate("document.querySelectorAll('.compare').length")):
        one = f"document.querySelectorAll('.compare')[{number}]"
        browser.evaluate(f"{one}.querySelector('input').focus()")
        browser.press("End")
        assert browser.evaluate(f"{one}.style.getPropertyValue('--at')") == "100%"
        assert browser.evaluate(f"getComputedStyle({one}.querySelectorAll('img')[1]).clipPath").startswith("inset(0px")


def layers_are_shown_and_hidden(browser: Browser) -> None:
    boxes = "[...document.querySelectorAll('.overlays input')]"
    before = browser.evaluate(f"{boxes}.map(box => box.checked)")
    browser.evaluate(f"{boxes}.forEach(box => box.click())")
    layers = "[...document.querySelectorAll('.overlays .stage')].flatMap(one => [...one.querySelectorAll('img')].slice(1))"
    assert browser.evaluate(f"{layers}.map(image => getComputedStyle(image).display == 'none')") == before
