"""Evaluation of a video codec compared with standard encoders, with and without a region."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from latens.data.duplicates import Distinct
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.journal import Journal
from latens.experiments.report import Report
from latens.inference.page import Block, Figure, Table
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.settings import Natural, Positive, settings
from latens.systems.video_codec.compare import Delta, Measure, delta, in_rest, in_roi
from latens.systems.video_codec.measure import (
    ClipRow,
    RegionClip,
    as_folder,
    by_label,
    by_setting,
    mean,
    measure_encoder,
    measure_ours,
    region_clips,
)
from latens.systems.video_codec.predict import VideoCodec

logger = logging.getLogger(__name__)

OURS = "latens"


@settings
class VideoEvaluation:
    """Clips, codecs and rates of an evaluation."""

    clips: tuple[str, ...] = ("blackswan", "drift-straight", "horsejump-high", "cows")  # all clips if --data has none of these
    frames: Natural = 24  # number of frames per clip, from the first; 0: all
    qualities: tuple[Positive, ...] = (1.0, 2.5, 4.0, 6.0)  # of the model
    gain: Natural = 0  # gain amplifier with a region; 0: the default of the model
    encoders: tuple[Literal["h264", "h265", "av1"], ...] = ("h264", "h265", "av1")  # standard encoders to compare with
    encoder_qualities: tuple[Positive, ...] = (1.0, 3.0, 5.0, 7.0)  # of the standard encoders
    threads: Natural = 1  # of the standard encoders; 0: all


# x265, as x264 may write different bytes in each run on processors with AVX-512.
QUICK = VideoEvaluation(frames=3, qualities=(1.0, 2.0), encoders=("h265",), encoder_qualities=(2.0, 5.0))


class RowLog:
    """Measured rows, kept in a journal."""

    def __init__(self, folder: Path | None) -> None:
        self.journal = Journal(None if folder is None else folder / "video.jsonl")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[tuple[Any, ...], ClipRow] = {}
        for record in self.journal.read():
            try:
                row = ClipRow(**record)
            except TypeError:  # a record of another version of latens is measured again
                continue
            self._rows[row.key] = row

    def once(self, key: tuple[Any, ...], measure: Callable[[], ClipRow]) -> ClipRow:
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = measure()
            self.journal.append([found._asdict()])
        return found


def evaluate(codec: VideoCodec, sources: Sequence[Source], options: VideoEvaluation, folder: Path | None) -> Report:
    """Rates of files and PSNR of region and background, for a model and standard encoders.

    Raises UsageError, InputError or UnreadableInput for the data.
    """
    clips = region_clips(sources, options.clips, options.frames)
    log = RowLog(folder)
    seen = Distinct()
    clips = [clip for clip in clips if seen.is_new(clip.digest, clip.name)]
    rows = [row for clip in clips for row in _measure(codec, clip, options, log)]
    blocks: list[Block] = [rate_table(rows), *delta_tables(rows), Figure(figure(rows), "Region and background")]
    names = ", ".join(clip.name for clip in clips)
    about = f"{codec.name}, weights {codec.model_id[:12]}; {names}; first {len(clips[0].frames)} frames; rates of files"
    facts = {"model": codec.name, "model_id": codec.model_id, "clips": [clip.name for clip in clips], "bd_rates": summary(rows)}
    return Report(
        name="video_codec", title="Video codec", about=about, blocks=blocks, facts=facts, rows=[row._asdict() for row in rows]
    )


def _measure(codec: VideoCodec, clip: RegionClip, options: VideoEvaluation, log: RowLog) -> list[ClipRow]:
    logger.info("%s: %d frames", clip.name, len(clip.frames))
    rows = []
    gain = float(options.gain) or None
    if any(quality > codec.best_quality for quality in options.qualities):
        where = f"qualities={','.join(f'{quality:g}' for quality in options.qualities)}"
        raise UsageError(f"the highest quality of this model is {codec.best_quality:g}", where=where)
    for region in (False, True):
        for quality in options.qualities:
            used = gain if region and codec.takes_gain else None
            key = (clip.digest, OURS, codec.model_id[:16], region, quality, used)
            rows.append(log.once(key, lambda q=quality, r=region, g=used: measure_ours(codec, clip, q, region=r, gain=g)))  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as place:
        frames = as_folder(clip, Path(place)) if options.encoders else Path(place)
        for name in options.encoders:
            for region in (False, True):
                for quality in options.encoder_qualities:
                    rows.append(
                        log.once(
                            (clip.digest, name, _version(name), region, quality, None),
                            lambda n=name, q=quality, r=region: measure_encoder(  # type: ignore[misc]
                                n, clip, frames, q, region=r, threads=options.threads
                            ),
                        )
                    )
    return rows


def _version(name: str) -> str:
    from latens.video.codecs import CODECS

    return CODECS[name].library  # type: ignore[index]


# ------------------------------------------------------------------------------------------------------------ results


def rate_table(rows: Sequence[ClipRow]) -> Table:
    """Means over the clips at every quality."""
    found = []
    for label, own in by_label(rows):
        for setting, group in by_setting(own):
            count = sum(row.frames for row in group)
            found.append(
                [
                    label,
                    f"{setting:g}",
                    f"{mean(group, lambda row: row.bpp):.4f}",
                    _shown(mean(group, lambda row: row.roi)),
                    _shown(mean(group, lambda row: row.rest)),
                    _shown(mean(group, lambda row: row.psnr)),
                    f"{sum(row.encode_seconds for row in group) / count:.3f}",
                    f"{sum(row.decode_seconds for row in group) / count:.3f}",
                ]
            )
    without = max((row.without_roi for row in rows), default=0)
    caption = "Means over clips; PSNR of 8-bit RGB, averaged over frames."
    if without:
        caption += f" Up to {without} frames per clip have no region and are excluded from the mean of the region."
    return Table(
        ["codec", "quality", "bpp", "region dB", "background dB", "all dB", "encode s/frame", "decode s/frame"], found, caption
    )


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def summary(rows: Sequence[ClipRow]) -> list[dict[str, Any]]:
    return [each._asdict() for each in deltas(rows)]


def deltas(rows: Sequence[ClipRow]) -> list[Delta]:
    """Every codec with region relative to itself without, and the model relative to every other codec."""
    curves = dict(by_label(rows))
    pairs = [(f"{name} + region", name) for name in curves if f"{name} + region" in curves]
    pairs += [(OURS, name) for name in curves if name != OURS and "+" not in name and OURS in curves]
    ours = f"{OURS} + region"
    pairs += [(ours, name) for name in curves if name != ours and "+" in name and ours in curves]
    return [delta(curves[tested], curves[anchor], tested, anchor) for tested, anchor in pairs]


def delta_tables(rows: Sequence[ClipRow]) -> list[Table]:
    """The comparisons as a table; an empty list for a single codec."""
    found = [
        [
            each.tested,
            each.anchor,
            "-" if each.roi is None else f"{each.roi:+.1f}",
            "-" if each.rest is None else f"{each.rest:+.2f}",
            "-" if each.whole is None else f"{each.whole:+.1f}",
            str(each.clips),
        ]
        for each in deltas(rows)
    ]
    caption = (
        "BD-rate: difference in rate at equal PSNR (negative: fewer bits). Background: difference in PSNR at equal rate. Means "
        "over the clips whose curves overlap; clips: their number for the region."
    )
    columns = ["tested", "relative to", "BD-rate region %", "background dB", "BD-rate all %", "clips"]
    return [Table(columns, found, caption)] if found else []


def figure(rows: Sequence[ClipRow], titles: Mapping[str, str] | None = None) -> bytes:
    """PSNR of region and background over the rate, on equal axes, as a PNG. Means over clips.

    Curves without the region are dashed; with `titles` (label -> name) all curves are solid.
    """
    drawn = {
        title: [_line(number, label, own, of, titles) for number, (label, own) in enumerate(by_label(rows))]
        for title, of in (("region", in_roi), ("background", in_rest))
    }
    heights = [value for lines in drawn.values() for line in lines for value in line.y if math.isfinite(value)]
    slack = 0.05 * (max(heights) - min(heights) or 1.0) if heights else 0.0
    limits = (min(heights) - slack, max(heights) + slack) if heights else None
    axes = "bits per pixel (bytes of the file)"
    panels = [LinePanel(axes, f"PSNR of the {title} (dB)", lines, title, limits) for title, lines in drawn.items()]
    return line_plot(panels)


def _line(number: int, label: str, rows: Sequence[ClipRow], of: Measure, titles: Mapping[str, str] | None) -> Line:
    groups = by_setting(rows)
    x = [mean(group, lambda row: row.bpp) for _, group in groups]
    y = [mean(group, of) for _, group in groups]
    if titles is None:
        return Line(label, x, y, number // 2, "-o" if "+" in label else "--o")
    return Line(titles.get(label, label), x, y, number, "-o")
