"""HTML reports in one file: text, images and tables, without network or other files.

The only script is `page.js`, which moves the line of a comparison; pages without one have none. The same tables are printed on
a terminal (`Table.text`).
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

from latens.data.files import write_atomic
from latens.data.media_types import image_media_type
from latens.errors import printable

TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_name(f"page.{ending}") for ending in ("html.jinja", "css", "js"))
ENLARGED = 2  # largest scale at which comparisons and overlays are shown
NUMBER = re.compile(r"[-+−±<>~]?\s?[\d.,]+(e[-+]?\d+)?( ?[%×x])?|–|-|inf|∞|", re.IGNORECASE)


class Figure(NamedTuple):
    """An image (bytes of a PNG, JPEG, WebP, GIF or AVIF file) with title and caption; without an image, a text tile.

    `pixelated` enlarges pixels without smoothing. A `chart` has dark lines on white; pages in dark mode invert it.
    """

    image: bytes
    title: str = ""
    caption: str = ""
    alt: str = ""
    pixelated: bool = False
    chart: bool = False

    def __repr__(self) -> str:
        return f"Figure({self.title or self.alt or 'untitled'}, {len(self.image):,} bytes)"


class Gallery(NamedTuple):
    """Figures in rows of `columns`; none is narrower than `narrowest` CSS pixels."""

    figures: Sequence[Figure]
    columns: int = 3
    narrowest: int = 150


class Compare(NamedTuple):
    """Two images of one size behind a line that the reader moves: `before` on its left, `after` on its right.

    Pixels that are compared should be lossless. The titles of the figures are shown in the corners.
    """

    before: Figure
    after: Figure
    caption: str = ""

    @property
    def widest(self) -> int:
        """Largest width on the page, in CSS pixels."""
        return ENLARGED * _size(self.before.image)[0]


class Layer(NamedTuple):
    """A transparent image of the size of its base, under a checkbox with its title; `shown` is the state of a new page."""

    figure: Figure
    shown: bool = True


class Overlays(NamedTuple):
    """An image with up to four layers (the rules of page.css), which the reader shows and hides."""

    base: Figure
    layers: Sequence[Layer]

    @property
    def widest(self) -> int:
        """Largest width on the page, in CSS pixels."""
        return ENLARGED * _size(self.base.image)[0]


class Columns(NamedTuple):
    """Blocks next to each other, as many as fit with at least `narrowest` CSS pixels."""

    blocks: Sequence[Block]
    narrowest: int = 320


class Table(NamedTuple):
    """Rows of cells under named columns. Cells are text; columns of numbers are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def is_text(self, column: int) -> bool:
        """True if some cell of the column is not a number."""
        return any(NUMBER.fullmatch(row[column].strip()) is None for row in self.rows)

    def text(self) -> str:
        """The table for a terminal."""
        lines = [list(self.columns), *(list(row) for row in self.rows)]
        widths = [max(_columns_taken(line[i]) for line in lines) for i in range(len(self.columns))]
        left = [self.is_text(i) for i in range(len(self.columns))]
        drawn = ["  ".join(_pad(cell, widths[i], left[i]) for i, cell in enumerate(line)).rstrip() for line in lines]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([drawn[0], rule, *drawn[1:], *([self.caption] if self.caption else [])])


class Links(NamedTuple):
    """A sentence and links to files, as paths relative to the page."""

    text: str
    links: Sequence[str]


Block: TypeAlias = "str | Figure | Gallery | Compare | Overlays | Columns | Table | Links"


class Part(NamedTuple):
    """Blocks under a smaller heading inside a section; `folded` shows only the heading until the reader opens it."""

    heading: str
    blocks: Sequence[Block]
    folded: bool = False


class Summary(NamedTuple):
    """What went in, what came out, the number that matters and its meaning, and the command for images of one's own."""

    given: str
    result: str
    number: str
    meaning: str
    command: str


class Section(NamedTuple):
    """Blocks under a heading, in order; a string is a paragraph. Summaries of sections form a table at the top of the page."""

    heading: str
    blocks: Sequence[Block]
    parts: Sequence[Part] = ()
    summary: Summary | None = None


class Page(NamedTuple):
    title: str
    sections: Sequence[Section]
    lead: str = ""
    footer: str = ""

    def html(self) -> str:
        """The page, images included as data URIs. Everything in it is escaped."""
        from jinja2 import Environment, StrictUndefined

        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        environment.filters.update(data_uri=data_uri, dimensions=_dimensions, address=quote, filename=_filename, digest=_digest)
        kinds = {"gallery": Gallery, "compare": Compare, "overlays": Overlays, "columns": Columns, "table": Table}
        environment.tests.update({name: _is(kind) for name, kind in kinds.items()} | {"link_list": _is(Links)})
        template, style, script = (path.read_text(encoding="utf-8") for path in (TEMPLATE, STYLE, SCRIPT))
        script = script if any(_compares(section.blocks, section.parts) for section in self.sections) else ""
        numbers = itertools.count(1)
        rendered = environment.from_string(template).render(page=self, style=style, script=script, number=lambda: next(numbers))
        return rendered + "\n"

    def save(self, path: Path) -> None:
        """Write the page atomically; a missing folder is created."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, printable(self.html()).encode())


def data_uri(image: bytes) -> str:
    """The image as a data URI. Raises ValueError for a format that browsers do not support."""
    return f"data:{_media_type(image)};base64,{base64.b64encode(image).decode()}"


def _compares(blocks: Sequence[Block], parts: Sequence[Part] = ()) -> bool:
    """True if a block is a comparison, or contains one."""
    every = [*blocks, *(block for part in parts for block in part.blocks)]
    return any(isinstance(one, Compare) or (isinstance(one, Columns) and _compares(one.blocks)) for one in every)


def _digest(script: str) -> str:
    """Source of a Content-Security-Policy that permits this script and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _filename(link: str) -> str:
    return link.rpartition("/")[2]


def _is(kind: type) -> Callable[[object], bool]:
    return lambda item: isinstance(item, kind)


def _media_type(image: bytes) -> str:
    found = image_media_type(image)
    if found is None:
        raise ValueError("a figure is PNG, JPEG, GIF, WebP or AVIF")
    return found


def _dimensions(image: bytes) -> str:
    """Attributes width and height, which keep the layout stable while images load."""
    from markupsafe import Markup

    return Markup(' width="{}" height="{}"').format(*_size(image))


def _size(image: bytes) -> tuple[int, int]:
    """Width and height in pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        return opened.size


def _columns_taken(text: str) -> int:
    """Columns of a terminal: two for wide East Asian characters, none for combining ones."""
    wide = (2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
    return sum(0 if unicodedata.combining(letter) else width for letter, width in zip(text, wide, strict=True))


def _pad(text: str, width: int, left: bool) -> str:
    space = " " * (width - _columns_taken(text))
    return text + space if left else space + text
