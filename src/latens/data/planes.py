"""Time, depth, channel and pixel size of the frames of a TIFF, from the metadata of OME-TIFF and ImageJ.

OME: the XML in the description of the first page; see the OME-TIFF specification. ImageJ: lines such as `slices=5` in the same
place, and the resolution tags. Plain TIFF files define neither axes nor micrometers: their resolution is that of a print.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, TypeAlias
from xml.etree import ElementTree

from PIL import Image

from latens.data.channels import current_channel, index_of
from latens.data.files import reading
from latens.data.tiff import MAX_FRAMES, channel_names, full_pages, full_resolution
from latens.errors import InputError

logger = logging.getLogger(__name__)

TIFF_ENDINGS = frozenset({".tif", ".tiff"})
DESCRIPTION, SAMPLES, X_RESOLUTION, Y_RESOLUTION = 270, 277, 282, 283  # tags
XML_LIMIT = 2**26  # characters of OME-XML
MICROMETERS: Mapping[str, float] = MappingProxyType(
    {
        "pm": 1e-6, "nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
        "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0, "in": 25_400.0, "å": 1e-4,
    }
)  # fmt: skip
"""Micrometers per unit of length, by its name in lower case."""


class Plane(NamedTuple):
    """Place of a frame in its stack and the size of its pixels; None where the file does not say."""

    t: int | None = None  # time, depth (slice) and channel, from 1 as in ImageJ
    z: int | None = None
    c: int | None = None
    pixel_um: tuple[float, float] | None = None  # width and height of a pixel in micrometers

    def record(self) -> dict[str, Any]:
        """The known fields, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items() if value}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Plane:
        """The plane of a JSON record with the fields of `record`; values of other types are unknown."""

        def number(name: str) -> int | None:
            value = record.get(name)
            return value if isinstance(value, int) and value > 0 else None

        size = record.get("pixel_um")
        known = isinstance(size, list) and len(size) == 2 and all(isinstance(value, int | float) for value in size)
        return cls(number("t"), number("z"), number("c"), _valid(*size) if known and size else None)


Place: TypeAlias = tuple[int | None, int | None, int | None]  # t, z, c


class _Stack(NamedTuple):
    """Axes of the planes in the order of the pages, and the pixel size."""

    places: Sequence[Place]
    pixel_um: tuple[float, float] | None


def read_planes(path: Path) -> list[Plane]:
    """The planes of the frames of `latens.data.stacks.read_frames`, for TIFF files; one unknown plane for other files.

    Axes that do not explain the number of pages are unknown, with a warning. Raises UnreadableInput for a missing file,
    InputError if `channels.chosen_channel` names a channel that the pages lack.
    """
    if path.suffix.lower() not in TIFF_ENDINGS:
        return [Plane()]
    with reading(path):
        planes, samples, text = _described(path, path)
    if current_channel() is not None and samples > 1:
        return [plane._replace(c=_chosen(text, samples)) for plane in planes]
    frames = _frames_of_channel(planes, samples, text)
    return planes if frames is None else [planes[number] for number in frames]


def channel_frames(source: Path | BinaryIO, path: Path) -> list[int] | None:
    """Which of all frames are those of the channel of `channels.chosen_channel`, if each page is one channel; otherwise None.

    `path` is the name of the file. Raises InputError for a channel that does not exist.
    """
    return None if current_channel() is None else _frames_of_channel(*_described(source, path))


def _frames_of_channel(planes: Sequence[Plane], samples: int, text: str) -> list[int] | None:
    channel, count = current_channel(), max((plane.c or 1 for plane in planes), default=1)
    if channel is None or samples > 1 or count == 1:
        return None
    number = index_of(channel, count, channel_names(text)) + 1
    return [index for index, plane in enumerate(planes) if plane.c == number]


def _described(source: Path | BinaryIO, path: Path) -> tuple[list[Plane], int, str]:
    """The planes of all frames, the samples of a pixel, and the description of the file."""
    count, kept, tags = _tags(source)
    text, tag = _text(tags.get(DESCRIPTION)), tags.get(SAMPLES)
    samples = tag if isinstance(tag, int) and tag > 0 else 1
    stack: _Stack | None = None
    try:
        if _is_ome(text):
            stack = _ome(text, path.name, count, samples)
        elif text.startswith("ImageJ="):
            stack = _imagej(text, tags)
    except (ValueError, TypeError, ElementTree.ParseError, ArithmeticError, RecursionError) as error:
        logger.warning("%s: its OME or ImageJ metadata are not readable (%s)", path, " ".join(str(error).split())[:120])
    return _planes(path, stack, kept), samples, text


def _chosen(text: str, samples: int) -> int | None:
    """The number of the channel that `channels.chosen_channel` takes of a page; None for one that does not exist."""
    try:
        return index_of(str(current_channel()), samples, channel_names(text)) + 1
    except InputError:
        return None


def _planes(path: Path, stack: _Stack | None, kept: Sequence[int]) -> list[Plane]:
    if stack is None:
        return [Plane() for _ in kept]
    if len(stack.places) == len(kept):
        kept = range(len(kept))  # pages that the file does not list, or without pyramid levels
    elif kept and max(kept) >= len(stack.places):
        logger.warning("%s: its axes explain %d of %d pages; t, z and c are left out", path, len(stack.places), len(kept))
        return [Plane(pixel_um=stack.pixel_um) for _ in kept]
    return [Plane(*stack.places[number], stack.pixel_um) for number in kept]


def _tags(path: Path | BinaryIO) -> tuple[int, Sequence[int], Mapping[int, Any]]:
    """Number of pages, numbers of the pages that are frames, and tags of the first page. Empty if the file is damaged."""
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tags: dict[int, Any] = dict(image.tag_v2)  # type: ignore[attr-defined]
            count, kept = getattr(image, "n_frames", 1), full_pages(image)
            declared = re.search(r"^images=(\d+)", _text(tags.get(DESCRIPTION)), re.M)
            if count == 1 and declared:  # ImageJ does not list the pages of files above 4 GB
                count = min(int(declared[1]), MAX_FRAMES)
                kept = list(range(count))
            return count, kept, tags
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception:  # the tag parser raises many types of errors; reading the pixels reports them
        return _tags_of_tifffile(path)


def _tags_of_tifffile(path: Path | BinaryIO) -> tuple[int, Sequence[int], Mapping[int, Any]]:
    try:
        import tifffile

        if not isinstance(path, Path):
            path.seek(0)
        with tifffile.TiffFile(path) as file:
            pages = list(itertools.islice(file.pages, MAX_FRAMES))
            kept = [page.index for page in full_resolution(pages)]
            first: Any = pages[0]
            return (
                len(pages),
                kept,
                {code: first.tags.valueof(code) for code in (DESCRIPTION, SAMPLES, X_RESOLUTION, Y_RESOLUTION)},
            )
    except Exception:  # parsers raise many types of errors; so does a missing package
        return 0, [], {}


def _text(value: Any) -> str:
    """A description in UTF-8; Pillow decodes it as Latin-1."""
    if not isinstance(value, str):
        return ""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _micrometers(unit: str) -> float | None:
    """Micrometers per unit, None if it is no unit of length. ImageJ escapes the micro sign."""
    name = unit.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ").replace("\u212b", "å").lower()  # Greek mu, angstrom
    return MICROMETERS.get(name)


def _valid(width: float, height: float) -> tuple[float, float] | None:
    good = math.isfinite(width) and math.isfinite(height) and width > 0 and height > 0
    return (float(width), float(height)) if good else None


# ------------------------------------------------------------------------------------------------------------- ImageJ


def _imagej(text: str, tags: Mapping[int, Any]) -> _Stack:
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    channels, slices, frames = (int(found.get(name, 1)) for name in ("channels", "slices", "frames"))
    count = int(found.get("images", 1))
    if not {"channels", "slices", "frames"} & set(found):
        channels = count  # a plain stack; no axis is named below
    sizes = {"c": channels, "z": slices, "t": frames}
    known = channels * slices * frames == count or count == 1
    places: list[Place] = list(_in_order("czt", sizes)) if known and 0 < count <= MAX_FRAMES else []
    t, z, c = (key in found for key in ("frames", "slices", "channels"))
    places = [(at if t else None, depth if z else None, channel if c else None) for at, depth, channel in places]
    unit = _micrometers(found.get("unit", ""))
    across, down = tags.get(X_RESOLUTION), tags.get(Y_RESOLUTION)
    if unit is None or not across or not down:
        return _Stack(places, None)
    return _Stack(places, _valid(unit / _number(across), unit / _number(down)))


def _number(value: Any) -> float:
    """A rational number of Pillow or tifffile."""
    return float(value[0]) / float(value[1]) if isinstance(value, tuple) else float(value)


def _in_order(order: str, sizes: Mapping[str, int]) -> Iterator[tuple[int, int, int]]:
    """(t, z, c) from 1 of all planes, if the axes vary in this order, the first one fastest."""
    for numbers in itertools.product(*(range(1, sizes[axis] + 1) for axis in reversed(order))):
        place = dict(zip(reversed(order), numbers, strict=True))
        yield place["t"], place["z"], place["c"]


# ---------------------------------------------------------------------------------------------------------------- OME


def _is_ome(text: str) -> bool:
    return "<OME" in text[:4096] or ":OME" in text[:4096]


def _ome(text: str, name: str, count: int, samples_of_page: int) -> _Stack:
    """Axes of the first image of the OME-XML `text` in the file `name` of `count` pages. Raises ValueError."""
    if len(text) > XML_LIMIT or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("the XML has entities or is too large")
    pixels = next((element for element in ElementTree.fromstring(text).iter() if _tag(element) == "Pixels"), None)
    if pixels is None:
        raise ValueError("there is no element Pixels")
    sizes = {axis: int(pixels.get(f"Size{axis.upper()}", 1)) for axis in "tzc"}
    samples = [int(each.get("SamplesPerPixel", 1)) for each in pixels if _tag(each) == "Channel"]
    sizes["c"] = max(1, sizes["c"] // max([samples_of_page, *samples]))  # the samples of a color are in one page
    if min(sizes.values()) < 1 or math.prod(sizes.values()) > MAX_FRAMES:
        raise ValueError(f"axes of {sizes}")
    order = pixels.get("DimensionOrder", "XYCZT")[2:].lower()
    if sorted(order) != sorted("tzc"):
        raise ValueError(f"dimension order {order}")
    every = list(_in_order(order, sizes))
    places: dict[int, tuple[int, int, int]] = {}
    blocks = _blocks(pixels, name)
    for block in blocks:
        first = tuple(int(block.get(f"First{axis.upper()}", 0)) + 1 for axis in "tzc")
        start, page = every.index(first) if first in every else len(every), int(block.get("IFD", 0))
        length = int(block.get("PlaneCount", 1 if block.get("IFD") is not None else len(every)))
        places.update({page + i: place for i, place in enumerate(every[start : start + length])})
    listed = [places[number] for number in range(count) if number in places] if places else every
    t, z, c = (sizes[axis] > 1 for axis in "tzc")
    kept = [(at if t else None, depth if z else None, channel if c else None) for at, depth, channel in listed]
    return _Stack(kept if not places or len(kept) == count else [], _ome_size(pixels))


def _blocks(pixels: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """The elements TiffData of this file. A data set of several files lists all of them, with their names."""
    every = [element for element in pixels if _tag(element) == "TiffData"]
    files = [next((each.get("FileName") for each in block if _tag(each) == "UUID"), None) for block in every]
    own = [block for block, file in zip(every, files, strict=True) if file in (None, name)]
    if every and not own:
        if len(set(files)) > 1:
            raise ValueError(f"it lists {len(set(files))} files, but not {name}")
        return every  # renamed
    return own


def _ome_size(pixels: ElementTree.Element) -> tuple[float, float] | None:
    sizes = []
    for axis in "XY":
        value, unit = pixels.get(f"PhysicalSize{axis}"), _micrometers(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if value is None or unit is None:
            return None
        sizes.append(float(value) * unit)
    return _valid(sizes[0], sizes[1])


def _tag(element: ElementTree.Element) -> str:
    """The name of an element without its namespace."""
    return element.tag.rpartition("}")[2]
