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
from latens.errors import counted
from latens.experiments.codec_rows import OURS
from latens.experiments.rate_distortion import RateDistortionResults
from latens.inference.page import Block, Columns, Compare, Figure, Gallery, Links, Part, Section, Summary, Table
from latens.metrics.image import psnr
from latens.systems.image_codec.baselines import Encoder, Match, available, decode, match_size
from latens.systems.image_codec.evaluate import Codec, Subject, Trial, load_subject, measure, try_codec, try_encoder

SHOWN = (1.0, 3.0, 5.0)  # qualities (of eight) with details; the first one also shows the whole image
CURVE = (1.0, 3.0, 5.0, 7.0, 8.0)  # qualities of the plot
CROP = (128, 96)  # width and height of the details
NARROWEST = 400  # CSS pixels of a comparison
CORNERS: Mapping[str, tuple[int, int]] = MappingProxyType({"coffee": (318, 222), "chelsea": (150, 60), "astronaut": (168, 70)})
"""Upper left corners (x, y) of the details, by photograph."""

INTRO = (
    "The bundled neural codec compressed each photograph to a .ltn file and decompressed it. Sizes are those of the files. The "
    "JPEG on the left has the lowest quality (at most 95) whose file is not smaller than the .ltn file (4:2:0, optimized "
    "Huffman tables). Move the lines; all pixels are shown as they were decoded."
)
ANCHOR = "JPEG"  # the codec of the headline


def section(codec: Codec, folder: Path, *, photos: Sequence[Photograph] | None = None) -> Section:
    """Compress photographs (default: the bundled ones) and write .ltn, .png and .jpg files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    studies: list[_Study] = []
    for photo in photographs() if photos is None else photos:
        if not studies:
            codec.compress(photo.path, quality=1)  # warm-up, not timed
        studies.append(_study(codec, photo, folder))
    rows = tuple(measure(trial, study.subject, similarity=False) for study in studies for trial in study.trials)
    versions = {each.name: each.version for each in available()}
    found = RateDistortionResults(codec.name, codec.model_id, rows, versions, noun="photograph")
    compared = [*(study.compare for study in studies), _against_original(studies[0])]
    blocks: list[Block] = [INTRO, Columns(compared, NARROWEST), Links("All files, next to this page:", [folder.name])]
    curves: list[Block] = [found.figure(), found.rate_table(), found.bd_table()]
    parts = [
        Part("Details, enlarged, at three qualities", [study.details for study in studies], folded=True),
        Part("Rate against quality, compared with JPEG, WebP and AVIF", curves, folded=True),
        Part("Time", [_timings(studies, scaled_qualities(codec, SHOWN)[1])], folded=True),
    ]
    return Section("Compress photographs", blocks, parts, _summary(found, len(studies)))


class _Pair(NamedTuple):
    """A trial of the codec, and a JPEG of at least the same size."""

    ours: Trial
    jpeg: Match
    jpeg_decoded: Pixels


class _Study(NamedTuple):
    photo: Photograph
    subject: Subject
    pairs: list[_Pair]  # at SHOWN
    trials: list[Trial]  # the .ltn files at CURVE, then the baselines

    @property
    def compare(self) -> Compare:
        """The JPEG and the decoded image at the first of the shown qualities."""
        pair, original = self.pairs[0], self.subject.image.pixels
        height, width = original.shape[:2]
        caption = (
            f"{self.photo.title}, {width} × {height} ({self.photo.credit}). JPEG: "
            f"{_numbers(original, pair.jpeg_decoded, pair.jpeg.data)}. latens: "
            f"{_numbers(original, pair.ours.decoded, pair.ours.data)}."
        )
        before = Figure(webp_bytes(pair.jpeg_decoded), "JPEG", alt=f"{self.photo.title}, JPEG")
        return Compare(before, Figure(webp_bytes(pair.ours.decoded), OURS, alt=f"{self.photo.title}, {OURS}"), caption)

    @property
    def details(self) -> Gallery:
        return Gallery(_details(self.subject, self.pairs), columns=1 + len(self.pairs), narrowest=120)


def _study(codec: Codec, photo: Photograph, folder: Path) -> _Study:
    subject = load_subject(photo.path, photo.name)
    encoders = {encoder.name: encoder for encoder in available()}
    shown = scaled_qualities(codec, SHOWN)
    ours = [try_codec(codec, subject.image, quality) for quality in scaled_qualities(codec, CURVE)]
    pairs = [_pair(encoders["JPEG"], subject, trial) for trial in ours if trial.setting in shown]
    for pair in pairs:
        _write(pair, photo.name, folder)
    others = [try_encoder(each, subject.image, quality) for each in encoders.values() for quality in each.qualities[::2]]
    return _Study(photo, subject, pairs, ours + others)


def scaled_qualities(codec: Codec, qualities: Sequence[float]) -> list[float]:
    """Qualities of a model with eight rates, scaled to the range of this model."""
    return [1 + (quality - 1) * (codec.best_quality - 1) / 7 for quality in qualities]


def _pair(jpeg: Encoder, subject: Subject, ours: Trial) -> _Pair:
    match = match_size(jpeg, subject.image, len(ours.data))
    return _Pair(ours, match, decode(match.data))


def _write(pair: _Pair, name: str, folder: Path) -> None:
    """Write the file, the decoded image and the JPEG of equal size."""
    stem = f"{name}_q{pair.ours.setting:g}"
    write_atomic(folder / f"{stem}.ltn", pair.ours.data)
    write_image(folder / f"{stem}.png", Image.fromarray(pair.ours.decoded))
    write_atomic(folder / f"{stem}_same_size.jpg", pair.jpeg.data)


def _against_original(study: _Study) -> Compare:
    """The original and the decoded image at the last of the shown qualities."""
    original, pair = study.subject.image.pixels, study.pairs[-1]
    caption = f"The same photograph as it went in, and at {_numbers(original, pair.ours.decoded, pair.ours.data)}."
    title = f"{OURS}, quality {pair.ours.setting:g}"
    before = Figure(webp_bytes(original), "original", alt=f"{study.photo.title}, original")
    return Compare(before, Figure(webp_bytes(pair.ours.decoded), title, alt=f"{study.photo.title}, {title}"), caption)


def _details(subject: Subject, pairs: Sequence[_Pair]) -> list[Figure]:
    """Enlarged details: the original and the codec at increasing quality in one row, the JPEGs below."""
    original = subject.image.pixels

    def detail(pixels: Pixels, title: str, caption: str) -> Figure:
        return Figure(webp_bytes(_crop(pixels, subject.name)), title, caption, pixelated=True)

    return [
        detail(original, "Original", f"24 bits per pixel, {original.nbytes:,} bytes of pixels"),
        *(
            detail(
                pair.ours.decoded,
                f"{OURS}, quality {pair.ours.setting:g}",
                _numbers(original, pair.ours.decoded, pair.ours.data),
            )
            for pair in pairs
        ),
        Figure(b"", "JPEG with at least as many bytes", "each below the .ltn file that it is compared with"),
        *(
            detail(
                pair.jpeg_decoded,
                f"JPEG, quality {pair.jpeg.quality}",
                _numbers(original, pair.jpeg_decoded, pair.jpeg.data),
            )
            for pair in pairs
        ),
    ]


def _crop(pixels: Pixels, name: str) -> Pixels:
    """The chosen detail of a photograph, or its center; a smaller photograph is returned whole."""
    height, width = pixels.shape[:2]
    left, top = CORNERS.get(name, ((width - CROP[0]) // 2, (height - CROP[1]) // 2))
    left, top = max(0, min(left, width - CROP[0])), max(0, min(top, height - CROP[1]))
    return pixels[top : top + CROP[1], left : left + CROP[0]]


def _numbers(original: Pixels, decoded: Pixels, data: bytes) -> str:
    height, width = original.shape[:2]
    return f"{8 * len(data) / (width * height):.3f} bpp, {len(data):,} bytes, {psnr(original, decoded):.2f} dB"


def _summary(found: RateDistortionResults, count: int) -> Summary:
    rates = {name: bd for name, bd in found.bd_rates("psnr").items() if bd is not None}
    texts = [f"{name} {_signed(bd.percent)}" for name, bd in rates.items() if name != ANCHOR]
    others = f"; against {', '.join(texts)}" if texts else ""
    number = _signed(rates[ANCHOR].percent) if ANCHOR in rates else "no overlap"
    return Summary(
        counted(count, "photograph"),
        ".ltn files, and the images that they decode to",
        number,
        f"bits at equal PSNR against {ANCHOR} (BD-rate){others}",
        "latens compress album/ -o small/ --quality 4",
    )


def _signed(percent: float) -> str:
    return f"{percent:+.0f} %".replace("-", "−")


def _timings(studies: Sequence[_Study], middle: float) -> Table:
    rows = []
    for study in studies:
        height, width = study.subject.image.pixels.shape[:2]
        trial = next(trial for trial in study.trials if trial.codec == OURS and trial.setting == middle)
        speeds = [f"{width * height / 1e6 / taken:.2f}" for taken in (trial.encoding.wall, trial.decoding.wall)]
        times = [f"{trial.encoding.wall:.3f}", f"{trial.decoding.wall:.3f}"]
        rows.append([study.subject.name, f"{width} × {height}", *times, *speeds])
    columns = ["photograph", "pixels", "compress s", "decompress s", "compress Mpx/s", "decompress Mpx/s"]
    return Table(columns, rows, f"Wall-clock time at quality {middle:g}: one run after one warm-up call.")
