"""Folders of images as clips."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from latens.data.clips.clip import FOLDER_RATE, Clip, ClipFrame, ClipInfo
from latens.data.clips.color import REC709
from latens.data.clips.formats import CLIP_ENDINGS
from latens.data.files import reading
from latens.data.images import IMAGE_ENDINGS, read_image
from latens.data.inputs import natural_key
from latens.data.origins import without_drawn
from latens.errors import InputError, UnreadableInput, counted


def images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, in natural order, without hidden files."""
    with reading(folder):
        names = sorted((path.name for path in folder.iterdir() if not path.name.startswith(".")), key=natural_key)
    return [folder / name for name in names if Path(name).suffix.lower() in IMAGE_ENDINGS]


def is_frame_folder(path: Path) -> bool:
    """True if a folder is a clip: it contains images and no clips (a folder of GIF files contains clips)."""
    if not path.is_dir():
        return False
    with reading(path):
        endings = {entry.suffix.lower() for entry in path.iterdir() if not entry.name.startswith(".")}
    return bool(endings & (IMAGE_ENDINGS - CLIP_ENDINGS)) and not endings & CLIP_ENDINGS


def open_folder(folder: Path, fps: Fraction | None) -> Clip:
    paths = without_drawn(images_in(folder), folder)
    if not paths:
        raise UnreadableInput("there are no images in this folder", where=str(folder))
    first = read_image(paths[0])
    height, width = first.pixels.shape[:2]
    rate = fps or FOLDER_RATE
    info = ClipInfo(
        width, height, rate, len(paths), float(len(paths) / rate), 1 / rate, 0, 8, REC709, True, first.alpha is not None, False,
        Fraction(1),
    )  # fmt: skip
    clip = Clip(folder, info, stems=tuple(path.stem for path in paths))
    if fps is None:
        clip.note(f"{float(rate):g} frames per second are assumed")
    if (text := gaps_in([path.stem for path in paths])) is not None:
        clip.note(text)
    clip.source = _folder_frames(clip, paths)
    return clip


def gaps_in(stems: Sequence[str]) -> str | None:
    """Note on frames that are missing by the numbers at the ends of their names; None without, and for other names.

    The usual step of the numbers is that of more than half of the frames; times and other numbers have none.
    """
    ends = [re.search(r"([0-9]{1,15})[^0-9]*$", stem) for stem in stems]
    numbers = [int(end[1]) for end in ends if end is not None]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    if len(numbers) < len(stems) or not steps:
        return None
    usual = min(steps)
    missing = [(index, step // usual - 1) for index, step in enumerate(steps) if usual > 0 and step > usual]
    if not missing or 2 * steps.count(usual) <= len(steps):
        return None
    return f"{counted(sum(number for _, number in missing), 'frame')} missing, the first after {stems[missing[0][0]]}"


def _folder_frames(clip: Clip, paths: list[Path]) -> Iterator[ClipFrame]:
    import av

    for number, path in enumerate(paths):
        try:
            image = read_image(path)
        except UnreadableInput:
            clip.damaged += 1
            clip.note(f"{path.name} is unreadable and skipped")
            continue
        if image.pixels.shape[:2] != (clip.info.height, clip.info.width):
            size = f"{image.pixels.shape[1]} x {image.pixels.shape[0]}"
            what = f"this image is {size}, but the first one of the folder is {clip.info.width} x {clip.info.height}"
            raise InputError(what, where=str(path), hint="all frames of a clip must have the same size")
        for text in image.notes:
            clip.note(text)
        if image.alpha is not None:
            clip.note("transparency is ignored")
        frame = av.VideoFrame.from_ndarray(image.pixels, format="rgb24")
        yield ClipFrame(frame, number / clip.info.rate, 1 / clip.info.rate, number)
