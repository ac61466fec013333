"""Files of named images: label maps, arrays, tables, one page, and exports for other tools."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from latens.data.csv_files import csv_bytes
from latens.data.files import write_atomic
from latens.data.image_output import webp_bytes
from latens.data.images import Pixels, read_image
from latens.data.instances import Collection, Instance, Scene
from latens.data.masks import encode
from latens.data.packs import read_pack
from latens.data.squares import shrink
from latens.errors import InputError, LatensError, UnreadableInput, counted, one_line
from latens.inference.page import Block, Figure, Gallery, Page, Section, Table
from latens.shapes import Float, UInt8
from latens.systems.parts.gallery import part_colors
from latens.systems.parts.naming.examples import LABELS
from latens.systems.parts.naming.namer import NamedImage, Namer
from latens.systems.parts.naming.query import PRESENT

TABLE, IMAGES, PAGE = "names.csv", "images.csv", "names.html"
COLUMNS = ("image", "name", "share", "pixels", "pieces")
IMAGE_COLUMNS = ("image", "certainty", "distance", "outlier")
MIN_PIECE = 1e-3  # share of the image; smaller pieces are not counted
FENCE = 1.5  # interquartile ranges above the upper quartile of log distances (Tukey 1977): an outlier
MAX_SHOWN = 24  # images of the page
SHOWN_HEIGHT = 200  # pixels


class Entry(NamedTuple):
    """What the tables hold of an image. `pieces` are connected parts of at least `MIN_PIECE`."""

    shares: Float[np.ndarray, "N"]
    pixels: Float[np.ndarray, "N"]
    pieces: Float[np.ndarray, "N"]
    certainty: float
    mean: Float[np.ndarray, "F"]  # features, averaged over the image


class Outlying(NamedTuple):
    """Distances of images from the middle of all, and the images that are far outside."""

    distance: Mapping[str, float]
    images: set[str]


def measure(found: NamedImage, mean: Float[np.ndarray, "F"], names: int) -> Entry:
    import cv2

    pixels = np.bincount(found.labels.ravel(), minlength=names + 1)[1:].astype(np.float64)
    smallest = MIN_PIECE * found.labels.size
    pieces = np.zeros(names)
    for number in np.flatnonzero(pixels):
        areas = cv2.connectedComponentsWithStats((found.labels == number + 1).astype(np.uint8), connectivity=8)[2][1:, 4]
        pieces[number] = int((areas >= smallest).sum())
    return Entry(pixels / found.labels.size, pixels, pieces, found.certainty, mean)


def label_png(labels: UInt8[np.ndarray, "H W"], names: int) -> bytes:
    """A label map with a palette: the pixels are the numbers of names, 0 is none (black)."""
    image = Image.fromarray(labels, "P")
    image.putpalette(np.concatenate([np.zeros((1, 3), np.uint8), colors(names)]).tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def colors(names: int) -> UInt8[np.ndarray, "N 3"]:
    """Colors of names, none of them black."""
    return np.rint(255 * (0.15 + 0.85 * part_colors(names))).astype(np.uint8)


def npz_bytes(found: NamedImage, entry: Entry, names: Sequence[str]) -> bytes:
    """Probabilities of cells (N, h, w) as float16, the names, and what the tables need."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        probability=found.probability.astype(np.float16),
        names=np.array(list(names)),
        shares=entry.shares,
        pixels=entry.pixels,
        pieces=entry.pieces,
        certainty=np.array(entry.certainty),
        mean=entry.mean,
    )
    return stream.getvalue()


def read_entry(path: Path) -> Entry:
    """The entry of an image that an earlier run named. Raises UnreadableInput."""
    try:
        found: dict[str, Any] = read_pack(path, Entry._fields)
        return Entry(*(found[name] for name in Entry._fields))._replace(certainty=float(found["certainty"]))
    except (LatensError, OSError, ValueError, TypeError, KeyError) as error:
        what = f"this result cannot be read ({type(error).__name__})"
        raise UnreadableInput(what, where=str(path), hint="delete it, and run the command again") from error


def outlying(entries: Mapping[str, Entry]) -> Outlying:
    """Distance of every image from the middle of all, relative to the median distance, and the images far outside.

    The distance is the root mean square over features of (value - median) / deviation. Below five images none is an outlier.
    """
    means = np.stack([entry.mean for entry in entries.values()])
    deviation = 1.4826 * np.median(np.abs(means - np.median(means, 0)), 0) + 1e-6
    far = np.sqrt((((means - np.median(means, 0)) / deviation).clip(-1e3, 1e3) ** 2).mean(1))
    far = far / max(float(np.median(far)), 1e-9)
    low, high = np.percentile(np.log(far + 1e-9), [25, 75])
    outside = (np.log(far + 1e-9) > high + FENCE * (high - low)) & (len(far) >= 5)
    names = list(entries)
    return Outlying(
        dict(zip(names, map(float, far), strict=True)), {name for name, out in zip(names, outside, strict=True) if out}
    )


def write_tables(entries: Mapping[str, Entry], names: Sequence[str], outliers: Outlying, out: Path) -> list[Path]:
    """names.csv (a row for every image and name), images.csv (a row for every image), labels.txt (the names of values)."""
    rows = [
        (image, name, round(float(entry.shares[n]), 5), int(entry.pixels[n]), int(entry.pieces[n]))
        for image, entry in entries.items()
        for n, name in enumerate(names)
    ]
    lines = [
        (image, round(entry.certainty, 4), round(outliers.distance[image], 3), "yes" if image in outliers.images else "no")
        for image, entry in entries.items()
    ]
    write_atomic(out / TABLE, csv_bytes([COLUMNS, *rows]))
    write_atomic(out / IMAGES, csv_bytes([IMAGE_COLUMNS, *lines]))
    write_atomic(out / LABELS, "".join(f"{number} {one_line(name)}\n" for number, name in enumerate(names, start=1)).encode())
    return [out / TABLE, out / IMAGES, out / LABELS]


def write_page(
    entries: Mapping[str, Entry],
    files: Mapping[str, tuple[Path, Path]],
    namer: Namer,
    outliers: Outlying,
    out: Path,
    found: Sequence[str] | None,
) -> Path:
    """names.html: the names with their colors and shares, and images beside their label maps; `found` are those of --find."""
    names, shown = namer.distinct, list(found or entries)[:MAX_SHOWN]
    mean = np.mean([entry.shares for entry in entries.values()], 0)
    there = np.sum([entry.shares >= PRESENT for entry in entries.values()], 0)
    order = np.argsort(-mean, kind="stable")
    rows = [[names[n], f"{100 * mean[n]:.1f} %", f"{there[n]}", "{:d} {:d} {:d}".format(*colors(len(names))[n])] for n in order]
    caption = f"Mean share of the area, and number of images (of {len(entries)}) with at least {100 * PRESENT:g} %."
    blocks: list[Block] = [Table(["name", "share", "images", "color"], rows, caption)]
    figures = [
        Figure(_side_by_side(*files[image], len(names)), _title(image, entries[image], names, image in outliers.images))
        for image in shown
    ]
    blocks.append(Gallery(figures, columns=2, narrowest=320))
    kind = "clusters of these images; name them in names/config.json" if namer.clustered else "names by example"
    lead = f"{counted(len(entries), 'image')}; {kind}; model {namer.parts.name}, weights {namer.parts.model_id}."
    if len(shown) < len(entries):
        lead += f" Shown are {len(shown)}" + (f" of {len(found)} that --find selects." if found else ".")
    Page("Names", [Section("Names", blocks)], lead).save(out / PAGE)
    return out / PAGE


def _title(image: str, entry: Entry, names: Sequence[str], outlier: bool) -> str:
    largest = np.argsort(-entry.shares, kind="stable")[:3]
    shares = ", ".join(f"{names[n]} {100 * entry.shares[n]:.0f} %" for n in largest if entry.shares[n] >= PRESENT)
    return f"{image}: {shares}" + ("; outlier" if outlier else "")


def _side_by_side(path: Path, labels: Path, names: int) -> bytes:
    """The image, and the image in gray under the colors of its names."""
    pixels = shrink(read_image(path).pixels, SHOWN_HEIGHT)
    size = (pixels.shape[1], pixels.shape[0])
    with Image.open(labels) as stored:
        values = np.asarray(stored.resize(size, Image.Resampling.NEAREST))
    return webp_bytes(np.concatenate([pixels, tinted(pixels, values, names)], 1), quality=80)


def tinted(pixels: Pixels, labels: UInt8[np.ndarray, "H W"], names: int) -> Pixels:
    palette = np.concatenate([np.zeros((1, 3)), colors(names)])
    gray = pixels.mean(2, keepdims=True)
    mixed: Pixels = np.rint(0.5 * gray + 0.5 * palette[labels]).astype(np.uint8)
    return mixed


# ------------------------------------------------------------------------------------------------------------ exports


def collection_of(labels: Mapping[str, Path], names: Sequence[str], root: Path) -> Collection:
    """One object for every name of every image, for the formats of `latens convert`. `labels` are label maps by image."""
    scenes = []
    for image, path in labels.items():
        with Image.open(path) as stored:
            values = np.asarray(stored)
        masks = [(n, encode(values == n + 1)) for n in range(len(names)) if (values == n + 1).any()]
        instances = tuple(Instance(amodal=mask, visible=mask, category=n, layer=0) for n, mask in masks)
        scenes.append(Scene(file=image, height=values.shape[0], width=values.shape[1], instances=instances))
    return Collection(categories=tuple(names), scenes=tuple(scenes), root=root)


def write_cvat(labels: Mapping[str, Path], names: Sequence[str], out: Path) -> list[Path]:
    """The format "Segmentation mask 1.1" of CVAT: colored masks, labelmap.txt with every color, and a list of images."""
    palette = np.concatenate([np.zeros((1, 3), np.uint8), colors(len(names))])
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{name}:{','.join(map(str, color))}::" for name, color in zip(names, palette[1:].tolist(), strict=True)]
    stems = cvat_stems(labels, names)
    written = [out / "labelmap.txt", out / "ImageSets" / "Segmentation" / "default.txt"]
    write_atomic(written[0], ("\n".join(lines) + "\n").encode())
    for image, path in labels.items():
        with Image.open(path) as stored:
            colored = Image.fromarray(palette[np.asarray(stored)])
        stream = io.BytesIO()
        colored.save(stream, "PNG")
        written.append(out / "SegmentationClass" / f"{stems[image]}.png")
        write_atomic(written[-1], stream.getvalue())
    write_atomic(written[1], os.fsencode("".join(f"{stem}\n" for stem in stems.values())))
    return written


def cvat_stems(images: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """The name of every image in CVAT, without its ending. Raises InputError where lists of CVAT cannot have a name."""
    stems: dict[str, str] = {}
    first: dict[str, str] = {}
    for image in images:
        stems[image] = Path(image).with_suffix("").as_posix()
        other = first.setdefault(stems[image], image)
        if other != image:
            what = f"CVAT knows images by their names without endings, which {other} also has"
            raise InputError(what, where=image, hint="rename one of the two, or export to coco or labelme")
        if "\n" in image:
            raise InputError("CVAT has no image with a line end in its name", where=image, hint="rename the image")
    for name in names:
        if ":" in name or "\n" in name:
            hint = "change it in names/config.json, or export to coco or labelme"
            raise InputError("CVAT has no name with a colon or a line end", where=name, hint=hint)
    return stems
