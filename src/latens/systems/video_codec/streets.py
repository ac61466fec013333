"""Street images with label maps as clips, instead of Cityscapes (Perugachi-Diaz 2024, sections 6.4.1 and 6.4.5).

A folder holds train/ and val/ with X.jpg or X.png and X_label.png, whose values are the class numbers of CamVid (Brostow et al.
2009): 0 to 10, other values are void. An image becomes a clip with labels in which the camera pans and moves forward.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from latens.data.files import reading
from latens.data.images import IMAGE_ENDINGS, decoding, read_image
from latens.data.source import Source
from latens.errors import InputError, UnreadableInput
from latens.shapes import Bool, UInt8
from latens.systems.video_codec.synthetic import Motion, view

KIND = "camvid"  # kind of a source
LABELS = "_label.png"
CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
# The paper chooses vehicle, road, pedestrian, bicycle and motorcycle of Cityscapes; in CamVid motorcyclists are bicyclists.
REGION = ("road", "car", "pedestrian", "bicyclist")
SIDE = 256  # side of a clip in pixels; the shorter side of a smaller image
FORWARD = (0.005, 0.015)  # range of the relative decrease of the field of view per frame
SIDEWAYS = 0.01  # maximum motion per frame, in widths of the image

Part: TypeAlias = Literal["train", "val"]


class StreetClip(NamedTuple):
    name: str
    frames: UInt8[np.ndarray, "T S S 3"]
    labels: UInt8[np.ndarray, "T S S"]

    def region(self, classes: Sequence[str] = REGION) -> Bool[np.ndarray, "T S S"]:
        """The pixels of these classes."""
        return np.isin(self.labels, [CLASSES.index(name) for name in classes])


def split_streets(sources: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """Sources of street images, and the other sources."""
    return [source for source in sources if source.kind == KIND], [source for source in sources if source.kind != KIND]


def street_clips(source: Source, part: Part, frames: int, count: int = 0) -> list[StreetClip]:
    """`count` images (0: all), evenly spaced in the order of names, as clips. Raises UnreadableInput or InputError."""
    images = images_of(source, part)
    if count and count < len(images):
        images = [images[index * len(images) // count] for index in range(count)]
    return [street_clip(path, frames) for path in images]


def images_of(source: Source, part: Part) -> list[Path]:
    """Images with labels, by name. Raises UnreadableInput if there are none."""
    folder = source.path / part
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    images = [path for path in found if path.suffix.lower() in IMAGE_ENDINGS and labels_of(path).is_file()]
    if not images:
        hint = f"give {KIND}:DIR, where DIR/train and DIR/val hold X.jpg and X{LABELS}"
        raise UnreadableInput(f"no images with label maps in {part}/", where=str(source), hint=hint)
    return images


def labels_of(image: Path) -> Path:
    return image.with_name(image.stem + LABELS)


def street_clip(path: Path, frames: int) -> StreetClip:
    """A clip of a street image with its label map, panned and zoomed; the file name seeds the motion.

    Raises UnreadableInput or InputError.
    """
    pixels = read_image(path).pixels
    place = labels_of(path)
    with reading(place), open(place, "rb") as stream, decoding(str(place)), Image.open(stream) as image:
        labels = np.asarray(image)
    if labels.shape != pixels.shape[:2] or labels.dtype != np.uint8:
        what = f"the label map of shape {labels.shape} does not match an image of {pixels.shape[1]} x {pixels.shape[0]}"
        raise InputError(what, where=str(place), hint="a label map has 8 bits, one channel and the size of its image")
    height, width = labels.shape
    side = min(SIDE, height, width)
    motion = _motion(
        np.random.default_rng(zlib.crc32(path.stem.encode("utf-8", "surrogateescape"))), height, width, side, frames
    )
    shown = np.stack([view(pixels, motion, index, side, outside="mirror") for index in range(frames)])
    moved = np.stack([view(labels, motion, index, side, outside="mirror", smooth=False) for index in range(frames)])
    return StreetClip(path.stem, shown, moved)


def _motion(rng: np.random.Generator, height: int, width: int, side: int, frames: int) -> Motion:
    """A motion from the largest central view forward and to one side, inside the image."""
    shorter = min(height, width)
    room = np.array([width - shorter, height - shorter]) / 2
    speed = np.minimum(SIDEWAYS * width, room / max(frames - 1, 1)) * rng.uniform(-1, 1, 2)
    center = np.array([width - 1, height - 1]) / 2
    return Motion(center, shorter / side, 0.0, speed, -rng.uniform(*FORWARD), 0.0)
