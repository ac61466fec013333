"""The image codec's section of `latens demo`: compressed and decompressed photographs, compared with JPEG of equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from PIL import Image

from latens.data.files import write_atomic
from latens.data.image_output import webp_bytes, write_image
from latens.data.images import Pixels
from latens.data.samples import Photograph, photographs
from latens.experiments.rate_distortion import OURS, RateDistortionResults
from latens.inference.page import Block, Figure, Gallery, Links, Part, Section, Table
from latens.metrics.image import psnr
from latens.systems.image_codec.baselines import Encoder, Match, available, decode, match_size
from latens.systems.image_codec.evaluate import Codec, Subject, Trial, load_subject, measure, try_codec, try_encoder

SHOWN = (1.0, 3.0, 5.0)  # qualities (of eight) with details; the middle one also shows the whole image
CURVE = (1.0, 3.0, 5.0, 7.0, 8.0)  # qualities of the plot
CROP = (128, 96)  # width and height of the details
CORNERS: Mapping[str, tuple[int, int]] = MappingProxyType({"coffee": (318, 222), "chelsea": (150, 60), "astronaut": (168, 70)})
"""Upper left corners (x, y) of the details, by photograph."""

INTRO = (
    "The bundled neural codec (one mean-scale hyperprior for all rates) compressed each photograph to a .ltn file and "
    "decompressed it. Sizes are those of the files. The JPEG next to it has the lowest quality (at most 95) whose file is not "
    "smaller than the .ltn file (4:2:0, optimized Huffman tables)."
)


def section(codec: Codec, folder: Path, *, photos: Sequence[Photograph] | None = None) -> Section:
    """Compress photographs (default: the bundled ones) and write .ltn, .png and .jpg files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    studies: list[_Study] = []
    for photo in photographs() if photos is None else photos:
        if not studies:
            codec.compress(photo.path, quality=1)  # warm-up, not timed
        studies.append(_study(codec, photo, folder))
    return Section("Image compression", [INTRO], [*(study.part for study in studies), *_summary(codec, studies)])


class _Study(NamedTuple):
    part: Part
    subject: Subject
    trials: list[Trial]  # the .ltn files at CURVE, then the baselines


class _Pair(NamedTuple):
    """A trial of the codec, and a JPEG of at least the same size."""

    ours: Trial
    jpeg: Match
    jpeg_decoded: Pixels


def _study(codec: Codec, photo: Photograph, folder: Path) -> _Study:
    subject = load_subject(photo.path, photo.name)
    encoders = {encoder.name: encoder for encoder in available()}
    shown = scaled_qualities(codec, SHOWN)
    ours = [try_codec(codec, subject.image, quality) for quality in scaled_qualities(codec, CURVE)]
    pairs = [_pair(encoders["JPEG"], subject, trial) for trial in ours if trial.setting in shown]
    written = [name for pair in pairs for name in _write(pair, photo.name, folder)]
    others = [try_encoder(each, subject.image, quality) for each in encoders.values() for quality in each.qualities[::2]]
    height, width = subject.image.pixels.shape[:2]
    blocks: list[Block] = [
        Gallery(_whole(subject.image.pixels, pairs[len(pairs) // 2]), columns=3, narrowest=200),
        Gallery(_details(subject, pairs), columns=1 + len(pairs), narrowest=170),
        Links(f"Files in {folder.name}, next to this page:", [f"{folder.name}/{name}" for name in written]),
    ]
    heading = f"{photo.title}, {width} × {height} ({photo.credit})"
    return _Study(Part(heading, blocks), subject, ours + others)


def scaled_qualities(codec: Codec, qualities: Sequence[float]) -> list[float]:
    """Qualities of a model with eight rates, scaled to the range of this model."""
    return [1 + (quality - 1) * (codec.best_quality - 1) / 7 for quality in qualities]


def _pair(jpeg: Encoder, subject: Subject, ours: Trial) -> _Pair:
    match = match_size(jpeg, subject.image, len(ours.data))
    return _Pair(ours, match, decode(match.data))


def _write(pair: _Pair, name: str, folder: Path) -> list[str]:
    """Write the file, the decoded image and the JPEG of equal size; return their names."""
    stem = f"{name}_q{pair.ours.setting:g}"
    write_atomic(folder / f"{stem}.ltn", pair.ours.data)
    write_image(folder / f"{stem}.png", Image.fromarray(pair.ours.decoded))
    write_atomic(folder / f"{stem}_same_size.jpg", pair.jpeg.data)
    return [f"{stem}.ltn", f"{stem}.png", f"{stem}_same_size.jpg"]


def _whole(original: Pixels, pair: _Pair) -> list[Figure]:
    bits = 24
    return [
        Figure(webp_bytes(original), "Original", f"{bits} bits per pixel, {original.nbytes:,} bytes of pixels"),
        Figure(webp_bytes(pair.ours.decoded), _ours_title(pair.ours), _numbers(original, pair.ours.decoded, pair.ours.data)),
        Figure(pair.jpeg.data, _jpeg_title(pair.jpeg), _numbers(original, pair.jpeg_decoded, pair.jpeg.data)),
    ]


def _details(subject: Subject, pairs: Sequence[_Pair]) -> list[Figure]:
    """Enlarged details: the original and the codec at increasing quality in one row, the JPEGs below."""
    original = subject.image.pixels

    def detail(pixels: Pixels, title: str, caption: str) -> Figure:
        return Figure(webp_bytes(_crop(pixels, subject.name)), title, caption, pixelated=True)

    return [
        detail(original, "Original", "detail, enlarged"),
        *(
            detail(pair.ours.decoded, _ours_title(pair.ours), _numbers(original, pair.ours.decoded, pair.ours.data))
            for pair in pairs
        ),
        Figure(b"", "JPEG with at least as many bytes", "each below the .ltn file that it is compared with"),
        *(
            detail(pair.jpeg_decoded, _jpeg_title(pair.jpeg), _numbers(original, pair.jpeg_decoded, pair.jpeg.data))
            for pair in pairs
        ),
    ]


def _crop(pixels: Pixels, name: str) -> Pixels:
    """The chosen detail of a photograph, or its center; a smaller photograph is returned whole."""
    height, width = pixels.shape[:2]
    left, top = CORNERS.get(name, ((width - CROP[0]) // 2, (height - CROP[1]) // 2))
    left, top = max(0, min(left, width - CROP[0])), max(0, min(top, height - CROP[1]))
    return pixels[top : top + CROP[1], left : left + CROP[0]]


def _ours_title(trial: Trial) -> str:
    return f"{OURS}, quality {trial.setting:g}"


def _jpeg_title(match: Match) -> str:
    return f"JPEG, quality {match.quality}"


def _numbers(original: Pixels, decoded: Pixels, data: bytes) -> str:
    height, width = original.shape[:2]
    return f"{8 * len(data) / (width * height):.3f} bpp, {len(data):,} bytes, {psnr(original, decoded):.2f} dB"


def _summary(codec: Codec, studies: Sequence[_Study]) -> list[Part]:
    """Plot and tables over all photographs."""
    rows = tuple(measure(trial, study.subject, similarity=False) for study in studies for trial in study.trials)
    versions = {each.name: each.version for each in available()}
    found = RateDistortionResults(codec.name, codec.model_id, rows, versions, noun="photograph")
    blocks: list[Block] = [found.figure(), found.rate_table(), found.bd_table()]
    rates = Part("Rate against quality, compared with JPEG, WebP and AVIF", blocks)
    return [rates, Part("Time", [_timings(studies, scaled_qualities(codec, SHOWN)[1])])]


def _timings(studies: Sequence[_Study], middle: float) -> Table:
    rows = []
    for study in studies:
        height, width = study.subject.image.pixels.shape[:2]
        trial = next(trial for trial in study.trials if trial.codec == OURS and trial.setting == middle)
        speeds = [f"{width * height / 1e6 / taken:.2f}" for taken in (trial.encode_seconds, trial.decode_seconds)]
        times = [f"{trial.encode_seconds:.3f}", f"{trial.decode_seconds:.3f}"]
        rows.append([study.subject.name, f"{width} × {height}", *times, *speeds])
    columns = ["photograph", "pixels", "compress s", "decompress s", "compress Mpx/s", "decompress Mpx/s"]
    return Table(columns, rows, f"Wall-clock time at quality {middle:g}: one run after one warm-up call.")
