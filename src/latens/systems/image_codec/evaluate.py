"""Rate and quality of the image codec on real images, compared with JPEG, WebP and AVIF.

Every rate comes from the bytes of a real file that was decoded again. Rows are kept image by image in rows.jsonl, so that a
stopped evaluation continues.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from latens.data.images import PICTURE_ENDINGS
from latens.data.inputs import find_inputs
from latens.data.samples import photographs
from latens.data.source import Source
from latens.errors import InputError, LatensError
from latens.experiments.rate_distortion import OURS, RateDistortionResults, Row, RowLog
from latens.experiments.report import Report
from latens.settings import Positive, settings
from latens.systems.image_codec.baselines import Encoder, available
from latens.systems.image_codec.trials import Codec, Subject, load_subject, measure, try_codec, try_encoder

logger = logging.getLogger(__name__)

ROWS = "rows.jsonl"


@settings
class CodecEvaluation:
    """Codecs and rates of an evaluation."""

    qualities: tuple[Positive, ...] = ()  # of our codec; empty: all whole ones
    baselines: tuple[Literal["JPEG", "WebP", "AVIF"], ...] = ("JPEG", "WebP", "AVIF")  # that ours is compared with


def evaluate(codec: Codec, sources: Sequence[Source], options: CodecEvaluation, folder: Path | None) -> Report:
    """Measures `codec` and the baselines on folders or images; without any, on photographs that come with latens.

    A second run with the same weights and folder measures only what is missing. Images that cannot be read are named in the
    report; raises InputError when none can.
    """
    return measure_all(codec, [source.path for source in sources], options, folder).report("Image codec")


def measure_all(codec: Codec, data: Sequence[Path], options: CodecEvaluation, folder: Path | None) -> RateDistortionResults:
    """The rows of an evaluation."""
    encoders = available(options.baselines)
    qualities = options.qualities or [float(step) for step in range(1, int(codec.best_quality) + 1)]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    log = RowLog(folder / ROWS if folder is not None else None)
    files = list(_find(data))
    rows: list[Row] = []
    failures: list[str] = []
    for number, (path, name) in enumerate(files, start=1):
        try:
            subject = load_subject(path, name)
        except LatensError as error:
            failures.append(f"{name}: {error.what}")
            logger.warning("left out: %s", failures[-1])
            continue
        measured = _measure(codec, encoders, subject, qualities, log)
        rows += measured.rows
        logger.info("%d of %d: %s%s", number, len(files), name, "" if measured.fresh else ", measured by an earlier run")
    if not rows:
        raise InputError(
            "none of the images can be read", where=", ".join(map(str, data)), hint=failures[0] if failures else None
        )
    versions = {encoder.name: encoder.version for encoder in encoders}
    return RateDistortionResults(codec.name, codec.model_id, tuple(rows), versions, tuple(failures))


def _find(data: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Images and the names they have in the report."""
    if not data:
        yield from ((photograph.path, photograph.name) for photograph in photographs())
        return
    for file in find_inputs([str(path) for path in data], PICTURE_ENDINGS):
        yield file.path, file.relative.as_posix()


class _Measured(NamedTuple):
    rows: list[Row]
    fresh: int  # how many of them were measured now


def _measure(codec: Codec, encoders: Sequence[Encoder], subject: Subject, qualities: Sequence[float], log: RowLog) -> _Measured:
    """All rows of one picture, in the order of codecs and settings; only what the log lacks is measured."""
    picture, fresh = subject.picture, 0
    rows: list[Row] = []
    for name, version, qualities_of, attempt in (
        (OURS, codec.model_id, qualities, partial(try_codec, codec)),
        *((each.name, each.version, each.qualities, partial(try_encoder, each)) for each in encoders),
    ):
        known = log.find(subject.digest, name, version, qualities_of)
        new = {setting: measure(attempt(picture, setting), subject) for setting in qualities_of if setting not in known}
        log.add(new.values())
        rows += [row._replace(image=subject.name) for row in (known | new).values()]
        fresh += len(new)
    return _Measured(rows, fresh)
