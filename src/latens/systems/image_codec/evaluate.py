"""Rate and distortion of the image codec on test images, compared with JPEG, WebP and AVIF.

Every rate is the size of a file that was written and decoded. Measurements are kept in rows.jsonl, so a stopped evaluation
continues where it stopped.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from annotated_types import Ge
from PIL import Image

from latens.data.duplicates import Distinct
from latens.data.image_output import to_pil
from latens.data.images import IMAGE_ENDINGS, LoadedImage, Pixels, read_image
from latens.data.inputs import find_inputs
from latens.data.notes import left_out
from latens.data.samples import photographs
from latens.data.source import Source, plain_paths
from latens.errors import InputError, LatensError, UsageError
from latens.experiments.codec_rows import OURS, CodecRow, RowLog
from latens.experiments.rate_distortion import RateDistortionResults
from latens.experiments.report import Report
from latens.metrics.image import ms_ssim, psnr
from latens.metrics.rate import bits_per_pixel
from latens.metrics.ssimulacra2 import SMALLEST_SIDE, check_installed, ssimulacra2
from latens.settings import settings
from latens.systems.image_codec.baselines import Encoder, available

logger = logging.getLogger(__name__)

ROWS = "rows.jsonl"

T = TypeVar("T")
Baseline: TypeAlias = Literal["JPEG", "WebP", "AVIF", "AVIF 4:2:0 psnr", "AVIF 4:4:4 psnr"]


@settings
class CodecEvaluation:
    """Codecs and rates of an evaluation."""

    qualities: tuple[Annotated[float, Ge(1)], ...] = ()  # of the model; empty: all its integer qualities
    baselines: tuple[Baseline, ...] = ("JPEG", "WebP", "AVIF", "AVIF 4:2:0 psnr", "AVIF 4:4:4 psnr")  # codecs to compare with
    ssimulacra2: bool = False  # measure SSIMULACRA2 too, 0.6 s for each file of a photograph of 0.4 megapixels


def evaluate(codec: Codec, sources: Sequence[Source], options: CodecEvaluation, folder: Path | None) -> Report:
    """Measure a codec and the baselines on folders or images (default: the bundled photographs).

    A second run with the same weights and folder measures only missing rows. The report lists images that cannot be read.
    Raises InputError if no image can be read, UsageError for KIND:PATH, for a quality that the model lacks, and for
    SSIMULACRA2 without its package.
    """
    return measure_all(codec, sources, options, folder).report("Image codec")


def measure_all(
    codec: Codec,
    sources: Sequence[Source],
    options: CodecEvaluation,
    folder: Path | None,
    others: Sequence[Encoder] = (),
) -> RateDistortionResults:
    """The rows of an evaluation with `others` after the baselines of the options; raises as `evaluate`."""
    if options.ssimulacra2:
        check_installed()
    encoders = (*_encoders(options.baselines), *others)
    qualities = options.qualities or tuple(float(step) for step in range(1, int(codec.best_quality) + 1))
    if max(qualities) > codec.best_quality:
        raise UsageError(f"the qualities of this model are 1 to {codec.best_quality:g}", where=f"qualities {max(qualities):g}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    log = RowLog(folder / ROWS if folder is not None else None)
    files = list(_find(sources))
    rows: list[CodecRow] = []
    failures: list[str] = []
    seen = Distinct()
    for number, (path, name) in enumerate(files, start=1):
        try:
            subject = load_subject(path, name)
        except LatensError as error:
            failures.append(left_out(error, name))
            continue
        if not seen.is_new(subject.digest, name):
            continue
        measured = _measure(codec, encoders, subject, qualities, log, score=options.ssimulacra2)
        rows += measured.rows
        logger.info("%d of %d: %s%s", number, len(files), name, "" if measured.fresh else ", measured by an earlier run")
    if not rows:
        where = ", ".join(map(str, sources))
        raise InputError("none of the images can be read", where=where, hint=failures[0] if failures else None)
    versions = {encoder.name: encoder.version for encoder in encoders}
    return RateDistortionResults(codec.name, codec.model_id, tuple(rows), versions, tuple(failures), tuple(seen.lines))


def _encoders(names: Sequence[str]) -> Sequence[Encoder]:
    """The encoders with these names. A warning lists those that this Pillow lacks."""
    encoders = available(tuple(names))
    missing = [name for name in names if name not in {encoder.name for encoder in encoders}]
    if missing:
        logger.warning("this Pillow was built without %s: left out of the comparison", ", ".join(missing))
    return encoders


def _find(sources: Sequence[Source]) -> Iterator[tuple[Path, str]]:
    """Images and their names in the report."""
    if not sources:
        yield from ((photograph.path, photograph.name) for photograph in photographs())
        return
    for file in find_inputs(plain_paths(sources, "the image codec"), IMAGE_ENDINGS):
        yield file.path, file.relative.as_posix()


class _Measured(NamedTuple):
    rows: list[CodecRow]
    fresh: int  # number of rows that were measured now


def _measure(
    codec: Codec, encoders: Sequence[Encoder], subject: Subject, qualities: Sequence[float], log: RowLog, *, score: bool
) -> _Measured:
    """All rows of one image, in the order of codecs and settings, with SSIMULACRA2 if `score`.

    Only rows that the log lacks are measured.
    """
    fresh = 0
    rows: list[CodecRow] = []
    scored = score and min(subject.image.pixels.shape[:2]) >= SMALLEST_SIDE
    for name, version, chosen, attempt in (
        (OURS, codec.model_id, qualities, partial(try_codec, codec)),
        *((each.name, each.version, each.qualities, partial(try_encoder, each)) for each in encoders),
    ):
        found = log.find(subject.digest, name, version, chosen)
        known = {setting: row for setting, row in found.items() if not scored or row.ssimulacra2 is not None}
        for setting in chosen:
            if setting not in known:
                known[setting] = measure(attempt(subject.image, setting), subject, score=score)
                log.add([known[setting]])
                fresh += 1
        # Scores of an earlier run are left out: the curves of some codecs would have them on fewer images than others.
        rows += [row._replace(name=subject.name, ssimulacra2=row.ssimulacra2 if score else None) for row in known.values()]
    return _Measured(rows, fresh)


# -------------------------------------------------------------------------------------------------------- measurements


class Codec(Protocol):
    """The codec under test: the methods of `predict.ImageCodec` that an evaluation uses."""

    name: str
    model_id: str
    best_quality: float

    def compress(self, image: Any, *, quality: float | None = None) -> bytes: ...
    def decompress(self, blob: bytes) -> Image.Image: ...
    def code_length(self, image: Any, *, quality: float) -> float: ...


class Subject(NamedTuple):
    """A test image without its alpha channel; `digest` is a hash of its pixels."""

    name: str
    image: LoadedImage
    digest: str


def load_subject(path: Path, name: str) -> Subject:
    """Read a test image without its alpha channel, which each baseline stores in its own way."""
    image = read_image(path)._replace(alpha=None)
    digest = hashlib.sha256(repr((image.pixels.shape, image.gray)).encode() + image.pixels.tobytes())
    return Subject(name, image, digest.hexdigest()[:16])


class Times(NamedTuple):
    """Seconds of the clock and of the processor, all threads together."""

    wall: float
    cpu: float


def timed(call: Callable[[], T], clock: Callable[[], float] = time.process_time) -> tuple[T, Times]:
    """The result of a call and its times; `clock` gives the seconds of the processor."""
    cpu, wall = clock(), time.perf_counter()
    result = call()
    return result, Times(time.perf_counter() - wall, clock() - cpu)


class Trial(NamedTuple):
    """The encoded and decoded image of one codec at one setting."""

    codec: str
    version: str
    setting: float
    data: bytes
    decoded: Pixels
    encoding: Times
    decoding: Times
    estimated_bytes: float | None = None


def try_codec(codec: Codec, loaded: LoadedImage, quality: float) -> Trial:
    """Encode and decode with the model; also estimate the size from its probabilities."""
    image = to_pil(loaded.pixels, gray=loaded.gray)
    data, encoding = timed(lambda: codec.compress(image, quality=quality))
    decoded, decoding = timed(lambda: np.asarray(codec.decompress(data).convert("RGB")))
    estimated = codec.code_length(image, quality=quality) / 8
    return Trial(OURS, codec.model_id, quality, data, decoded, encoding, decoding, estimated)


def try_encoder(encoder: Encoder, image: LoadedImage, quality: int) -> Trial:
    """Encode and decode with a baseline."""
    data, encoding = timed(lambda: encoder.encode(image, quality), encoder.clock)
    decoded, decoding = timed(lambda: encoder.decode(data), encoder.clock)
    return Trial(encoder.name, encoder.version, quality, data, decoded, encoding, decoding)


def measure(trial: Trial, subject: Subject, *, similarity: bool = True, score: bool = False) -> CodecRow:
    """Rate, distortion and times of a trial: MS-SSIM if `similarity`, SSIMULACRA2, the slowest one, if `score`."""
    original = subject.image.pixels
    height, width = original.shape[:2]
    return CodecRow(
        name=subject.name,
        digest=subject.digest,
        codec=trial.codec,
        version=trial.version,
        setting=trial.setting,
        bytes=len(trial.data),
        bpp=bits_per_pixel(len(trial.data), width, height),
        psnr=psnr(original, trial.decoded),
        ms_ssim=ms_ssim(original, trial.decoded) if similarity else None,
        encode_seconds=round(trial.encoding.wall, 5),
        decode_seconds=round(trial.decoding.wall, 5),
        encode_cpu=round(trial.encoding.cpu, 5),
        decode_cpu=round(trial.decoding.cpu, 5),
        estimated_bytes=trial.estimated_bytes,
        ssimulacra2=ssimulacra2(original, trial.decoded) if score else None,
    )
