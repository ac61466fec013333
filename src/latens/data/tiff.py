"""Kinds of TIFF pages, judged by their tags before pixels are read: channels, meaning of zero, pyramid levels, tile sizes."""

from __future__ import annotations

import contextlib
import html
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageFile

from latens.data.channels import current_channel, listing, pick
from latens.errors import InputError, LimitExceeded, UnreadableInput

TIFF_START = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KIND, OLD_KIND, WIDTH, HEIGHT, BITS, PHOTOMETRIC, CHANNELS, PLANAR = 254, 255, 256, 257, 258, 262, 277, 284  # tags
DESCRIPTION, NAMES_LIMIT = 270, 2**20
SUB_PAGES, DNG_VERSION = 330, 50706
TILE_WIDTH, TILE_HEIGHT, EXTRA, SAMPLE_FORMAT = 322, 323, 338, 339
MAX_FRAMES = 100_000
REDUCED, MASK, OLD_REDUCED = 1, 4, 2  # bits of tag 254, value of tag 255
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}  # channels that the photometric interpretation explains
SEPARATE = 2  # planar configuration
FLOAT = 3  # sample format
MAX_TILE = 256 * 2**20  # bytes of one tile, which decoders allocate whole


class PageKind(NamedTuple):
    """The tags of one page that decide how its values are read."""

    photometric: int
    channels: int
    bits: int  # of the deepest channel
    sample_format: int  # 1 unsigned, 2 signed, 3 float
    extra: tuple[int, ...]  # meanings of the channels after the colors: 0 unknown, 1 and 2 alpha
    planar: bool
    reduced: bool  # a pyramid level, thumbnail or mask of another page
    tile: tuple[int, int]  # width, height; 0 without tiles
    names: tuple[str, ...] = ()  # of the channels, in OME-TIFF

    def check(self, number: int) -> None:
        """Raises InputError for channels among which latens cannot choose, LimitExceeded for huge tiles. `number` is from 0."""
        if self.tile[0] * self.tile[1] * max(self.channels, 1) * max(self.bits, 8) // 8 > MAX_TILE:
            raise LimitExceeded(f"page {number + 1} has tiles of {self.tile[0]} x {self.tile[1]} pixels")
        if current_channel() is not None:
            return
        colors = COLORS.get(self.photometric)
        if colors is None or self.channels <= colors:
            return
        if self.channels > colors + 1 or (colors == 1 and self.extra[:1] not in ((1,), (2,))):
            candidates = listing(self.channels, self.names)
            what = f"page {number + 1} has {self.channels} channels ({candidates}), and no rule says which to take"
            raise InputError(what, hint="choose one: --channel 1 (in Python: chosen_channel), or save three as RGB")

    def black_is_zero(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Values of any type as the tags define them: inverted if zero means white; Pillow reads unsigned 32 bits as signed."""
        if values.dtype == np.int32 and self.bits == 32 and self.sample_format == 1:
            values = values.view(np.uint32)
        if self.photometric != WHITE_IS_ZERO:
            return values
        if self.sample_format == FLOAT or values.dtype.kind == "f":
            return 1 - values
        if values.dtype.kind == "b" or self.sample_format == 2:
            return ~values
        inverted: np.ndarray[Any, Any] = (2 ** min(self.bits, 8 * values.dtype.itemsize) - 1) - values
        return inverted


def page_kind(tag: Callable[[int], Any]) -> PageKind:
    """The kind of a page. `tag` returns the value of a tag, or None."""

    def numbers(code: int, default: int) -> tuple[int, ...]:
        value = tag(code)
        value = value if isinstance(value, tuple) else (default if value is None else value,)
        return tuple(int(number) for number in value) or (default,)

    return PageKind(
        photometric=numbers(PHOTOMETRIC, BLACK_IS_ZERO)[0],
        channels=numbers(CHANNELS, 1)[0],
        bits=max(numbers(BITS, 1)),
        sample_format=numbers(SAMPLE_FORMAT, 1)[0],
        extra=numbers(EXTRA, 0),
        planar=numbers(PLANAR, 1)[0] == SEPARATE,
        reduced=bool(numbers(KIND, 0)[0] & (REDUCED | MASK)) or numbers(OLD_KIND, 1)[0] == OLD_REDUCED,
        tile=(numbers(TILE_WIDTH, 0)[0], numbers(TILE_HEIGHT, 0)[0]),
        names=channel_names(tag(DESCRIPTION)),
    )


def channel_names(description: object) -> tuple[str, ...]:
    """Names of the channels in OME-XML, "" for those without one."""
    text = description if isinstance(description, str) and "OME" in description[:4096] else ""
    channels = re.findall(r"<(?:\w+:)?Channel\b[^>]*>", text[:NAMES_LIMIT])
    found = [re.search(r"\bName=\"([^\"]*)\"", channel) for channel in channels]
    return tuple(html.unescape(name[1]) if name else "" for name in found)


def kind_of(image: Image.Image) -> PageKind | None:
    """The kind of the current page of a TIFF that Pillow has opened; None for other images."""
    tags = getattr(image, "tag_v2", None)
    return page_kind(tags.get) if image.format == "TIFF" and tags is not None else None


def full_pages(image: Image.Image) -> list[int]:
    """Numbers (from 0) of the pages that are images of their own, without pyramid levels, thumbnails and masks.

    Leaves the image at another page.
    """
    kept = []
    count = getattr(image, "n_frames", 1)
    for number in range(count):
        with contextlib.suppress(Exception):  # a damaged or unknown page is reported when it is read
            image.seek(number)
        kind = kind_of(image)
        if kind is None or not kind.reduced:
            kept.append(number)
    return kept or list(range(count))


def refuse_raw(image: Image.Image) -> None:
    """Raises UnreadableInput for raw files of cameras, of which Pillow reads only a thumbnail."""
    tags: Any = getattr(image, "tag_v2", {})
    kind = kind_of(image)
    if DNG_VERSION in tags or (kind is not None and kind.reduced and SUB_PAGES in tags):
        what = "a raw file of a camera, of which only the thumbnail could be read"
        raise UnreadableInput(what, hint="develop it first: the package rawpy reads it")


def prepare_planes(image: Image.Image) -> None:
    """Let libtiff decode uncompressed planes of 16 bits. Call before loading; Pillow's own decoder mixes their bytes."""
    kind = kind_of(image)
    tiles: Any = getattr(image, "tile", None)
    if kind is None or not tiles or not kind.planar or kind.channels < 2 or kind.bits != 16 or tiles[0][0] != "raw":
        return
    mode = {"RGB": "RGB;16N", "RGBA": "RGBA;16N", "RGBX": "RGBX;16N", "CMYK": "CMYK;16N"}.get(image.mode)
    if mode is None:
        raise InputError(
            f"planes of 16 bits in mode {image.mode} are not supported", hint="save the file with interleaved channels"
        )
    libtiff: Any = image
    compression = () if int(PIL.__version__.partition(".")[0]) >= 13 else ("raw",)  # an argument of older decoders
    arguments = (mode, *compression, False, libtiff.tag_v2.offset)
    libtiff.tile = [ImageFile._Tile("libtiff", (0, 0, *image.size), 0, arguments)]
    libtiff.use_load_libtiff = True


# -------------------------------------------------------------------------------------------------- with tifffile


def full_resolution(pages: Iterable[Any]) -> list[Any]:
    """The pages of tifffile that are images of their own; see `full_pages`."""
    listed = list(pages)
    return [page for page in listed if not page_kind(page.tags.valueof).reduced] or listed


def page_values(page: Any, number: int, channel: str | None) -> np.ndarray:
    """Values (H, W) or, without `channel`, (H, W, channels) of a page of tifffile, zero for black.

    Raises InputError for unknown channels.
    """
    kind = page_kind(page.tags.valueof)
    kind.check(number)
    if kind.photometric > RGB:
        raise InputError(f"page {number + 1} has the colors {page.photometric.name}", hint="save it as gray or RGB")
    values = np.asarray(page.asarray())
    if kind.planar and values.ndim == 3:
        values = np.moveaxis(values, 0, 2)
    if channel is not None:
        values = pick(values, channel, kind.names)
    return kind.black_is_zero(values)


def first_values(
    stream: BinaryIO,
    check_size: Callable[[int, int], None],
    frames: Callable[[BinaryIO], list[int] | None] = lambda stream: None,
) -> np.ndarray[Any, Any] | None:
    """Values of the first full page of a TIFF, read by tifffile; None for other files and without tifffile.

    `check_size` is called with width and height before memory is taken. `frames` lists the full pages of the chosen channel if
    each page is one channel. Raises the errors of `page_values` and of tifffile.
    """
    stream.seek(0)
    if stream.read(4) not in TIFF_START or importlib.util.find_spec("tifffile") is None:
        return None
    import tifffile

    stream.seek(0)
    chosen = frames(stream)
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        pages = full_resolution(itertools.islice(file.pages, MAX_FRAMES))
        page = pages[chosen[0] if chosen else 0]
        check_size(page.imagewidth, page.imagelength)
        return page_values(page, page.index, None if chosen else current_channel())
