"""Rate and quality of the image codec on real pictures, beside JPEG, WebP and AVIF.

Every rate comes from the bytes of a real file that was decoded again. What is measured is kept picture by picture in
rows.jsonl, so that an evaluation that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from latens.data.images import PICTURE_ENDINGS
from latens.data.inputs import find_inputs
from latens.errors import InputError, LatensError
from latens.inference.demo import photographs
from latens.systems.image_codec.baselines import Encoder, available
from latens.systems.image_codec.measure import (
    OURS,
    Codec,
    Row,
    RowLog,
    Subject,
    load_subject,
    measure,
    try_codec,
    try_encoder,
)
from latens.systems.image_codec.results import EvaluationReport

BASELINES = ("JPEG", "WebP", "AVIF")
ROWS = "rows.jsonl"


def evaluate(
    codec: Codec,
    data: Path | Sequence[Path] | None = None,
    out: Path | None = None,
    *,
    qualities: Sequence[float] | None = None,
    baselines: Sequence[str] = BASELINES,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Measures `codec` and the baselines on pictures, and writes the report into the folder `out` if there is one.

    `data` is a folder, pictures, or None for a few photographs that are installed with latens. A second run with the
    same weights and `out` measures only what is missing. `qualities` are those of our codec, by default all whole ones.
    `progress` is told a line for every picture. Pictures that cannot be read are named in the report; raises InputError
    when none can.
    """
    tell = progress or (lambda line: None)
    encoders = available(tuple(baselines))
    if qualities is None:
        qualities = [float(step) for step in range(1, int(codec.best_quality) + 1)]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    log = RowLog(out / ROWS if out is not None else None)
    files = list(_find(data))
    rows: list[Row] = []
    failures: list[str] = []
    for number, (path, name) in enumerate(files, start=1):
        try:
            subject = load_subject(path, name)
        except LatensError as error:
            failures.append(f"{name}: {error.what}")
            tell(f"{number} of {len(files)}: {failures[-1]}")
            continue
        measured = _measure(codec, encoders, subject, qualities, log)
        rows += measured.rows
        tell(f"{number} of {len(files)}: {name}{', measured by an earlier run' if measured.fresh == 0 else ''}")
    if not rows:
        raise InputError("none of the pictures can be read", where=str(data), hint=failures[0] if failures else None)
    settings = {encoder.name: encoder.version for encoder in encoders}
    report = EvaluationReport(codec.name, codec.model_id, tuple(rows), settings, tuple(failures))
    if out is not None:
        report.save(out)
    return report


def _find(data: Path | Sequence[Path] | None) -> Iterator[tuple[Path, str]]:
    """Pictures and the names they have in the report."""
    if data is None:
        yield from ((photograph.path, photograph.name) for photograph in photographs())
        return
    inputs = [data] if isinstance(data, Path) else list(data)
    for file in find_inputs([str(path) for path in inputs], PICTURE_ENDINGS):
        yield file.path, file.relative.as_posix()


class _Measured(NamedTuple):
    rows: list[Row]
    fresh: int  # how many of them were measured now


def _measure(codec: Codec, encoders: Sequence[Encoder], subject: Subject, qualities: Sequence[float], log: RowLog) -> _Measured:
    """All rows of one picture, in the order of codecs and settings; only what the log lacks is measured."""
    picture, fresh = subject.picture, 0
    rows: list[Row] = []
    for name, version, settings, attempt in (
        (OURS, codec.model_id, qualities, partial(try_codec, codec)),
        *((each.name, each.version, each.qualities, partial(try_encoder, each)) for each in encoders),
    ):
        known = log.find(subject.digest, name, version, settings)
        new = {setting: measure(attempt(picture, setting), subject) for setting in settings if setting not in known}
        log.add(new.values())
        rows += [row._replace(picture=subject.name) for row in (known | new).values()]
        fresh += len(new)
    return _Measured(rows, fresh)
