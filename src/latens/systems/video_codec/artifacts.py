"""Tables and figures of 003, chapter 6 and appendix D, on clips with masks (see `study` for how methods are trained).

Figures 6.4.4 and D.3 (Cityscapes) are not made. Chapter 6 shows DAVIS clips of which only parkour is at hand: the clips of the
scale take their place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import torch

from latens.codes.gains import lambda_at
from latens.contract import Artifact
from latens.experiments.report import Report
from latens.inference.page import Block, Figure, Gallery, Table
from latens.systems.video_codec.evaluate import delta, figure, rate_table
from latens.systems.video_codec.looks import (
    bits_image,
    bits_map,
    coded,
    image,
    outlined,
    psnr_image,
    psnr_map,
    region_numbers,
)
from latens.systems.video_codec.measure import RegionClip, composite_clip
from latens.systems.video_codec.model import ScaleSpaceFlow
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.study import (
    IMPLICIT,
    LOSS,
    OBIC,
    ONE_RATE,
    SCALES,
    SCALING,
    SCALING_10,
    SCALING_PERLIN,
    SSF,
    Study,
    VideoLab,
    VideoScale,
)

FRAME = 5  # that images show, as in 003; the last one of shorter clips
CLAIM = "The thesis claims an ROI BD-rate of -69.3 % for latent scaling against SSF."


def curves(labels: Sequence[str], note: str, study: Study) -> list[Block]:
    """Rate against PSNR of region and background, and BD-rates against plain scale-space flow."""
    rows = study.rows(labels)
    found = []
    anchor = [row for row in rows if row.codec == SSF]
    for label in labels:
        if label != SSF and anchor:
            each = delta([row for row in rows if row.codec == label], anchor, label, SSF)
            found.append(
                [
                    label,
                    *("-" if value is None else f"{value:+.2f}" for value in (each.roi, each.rest, each.whole)),
                    str(each.clips),
                ]
            )
    columns = ["method", "BD-rate region %", "rest dB at equal rate", "BD-rate all %", "clips"]
    blocks: list[Block] = [Figure(figure(rows, {label: label for label in labels}), note)]
    if found:
        blocks.append(Table(columns, found, f"Against SSF, trained equally. {CLAIM}"))
    return [*blocks, rate_table(rows)]


def maps(study: Study) -> list[Block]:
    """Where bits and errors lie in one frame of a clip, for plain scale-space flow and latent scaling."""
    clip = study.clips[0]
    place = min(FRAME, len(clip.frames) - 1)
    figures = [image(outlined(clip.frames[place], clip.masks[place]), f"{clip.name}, frame {place}", "the region is outlined")]
    for label in (SSF, SCALING):
        codec, region = study.model(label), label != SSF
        how, _ = codec.setting(region, study.scale.shown, None)
        decoded = coded(codec, clip, study.scale.shown, region=region).frames[place]
        bits = bits_map(codec, clip, place, how)
        inside = clip.masks[place]
        share = 100 * bits[inside].sum() / max(bits.sum(), 1e-9)
        figures += [
            image(decoded, label, region_numbers(decoded, clip.frames[place], inside)),
            image(bits_image(bits), f"{label}: bits", f"{bits.mean():.3f} bpp, {share:.0f} % of them in the region"),
            image(psnr_image(psnr_map(decoded, clip.frames[place])), f"{label}: PSNR", "15 dB dark, 45 dB bright"),
        ]
    return [Gallery(figures, columns=4, narrowest=160)]


def looks(labels: Sequence[str], study: Study) -> list[Block]:
    """One frame of every clip, decoded by every method."""
    galleries: list[Block] = []
    for clip in study.clips:
        place = min(FRAME, len(clip.frames) - 1)
        figures = [image(outlined(clip.frames[place], clip.masks[place]), f"{clip.name}, frame {place}")]
        for label in labels:
            made = coded(study.model(label), clip, study.scale.shown, region=label not in (SSF, LOSS))
            bpp = 8 * made.bytes / clip.masks.size
            numbers = region_numbers(made.frames[place], clip.frames[place], clip.masks[place])
            figures.append(image(made.frames[place], label, f"{bpp:.3f} bpp; {numbers}"))
        galleries.append(Gallery(figures, columns=len(figures), narrowest=160))
    return galleries


def one_rate(study: Study) -> list[Block]:
    """One model for all rates beside models that were trained as long for one rate each."""
    rows = []
    for quality in ONE_RATE:
        alone = f"{SSF}, quality {quality:g} alone"
        losses = []
        for label in (SSF, alone):
            codec = study.model(label)
            found = [study.row(label, clip, quality) for clip in study.clips]
            weight = 255**2 * lambda_at(codec.config.lambdas, quality)
            bpp = np.mean([row.bpp for row in found])
            mse = np.mean([10 ** (-row.psnr / 10) for row in found])
            losses.append(bpp + weight * mse)
            worse = 100 * (losses[-1] / losses[0] - 1)
            numbers = [f"{bpp:.4f}", f"{-10 * np.log10(mse):.2f}", f"{losses[-1]:.4f}", f"{worse:+.2f}"]
            rows.append([label, f"{quality:g}", *numbers])
    columns = ["model", "quality", "bpp", "dB", "rate + distortion", "against the model for all rates %"]
    return [Table(columns, rows, "All trained for equal steps from one plain model; means over the clips, bits of real files.")]


def regions(study: Study) -> list[Block]:
    """Frames and the binary masks that are their regions."""
    figures = []
    for clip in study.clips:
        place = min(FRAME, len(clip.frames) - 1)
        figures.append(image(clip.frames[place], f"{clip.name}, frame {place}"))
        mask = np.repeat((255 * clip.masks[place]).astype(np.uint8)[..., None], 3, axis=2)
        figures.append(image(mask, "region", f"{100 * clip.masks[place].mean():.1f} % of the frame"))
    return [Gallery(figures, columns=4, narrowest=160)]


def instances(study: Study, *, pictures: bool) -> list[Block]:
    """Each object of a clip with two objects as the region in turn, by one model at one quality."""
    codec, quality = study.model(SCALING), study.scale.shown
    clip, ids = composite_clip(study.clips)
    rows, figures = [], [image(clip.frames[-1], "two objects", "cut-outs over a clip's first frame in motion")]
    psnr: dict[tuple[int, int], float] = {}
    sizes: dict[int, int] = {}
    for chosen in (1, 2):
        part = RegionClip(clip.name, clip.frames, ids == chosen)
        made = coded(codec, part, quality, region=True)
        sizes[chosen] = made.bytes
        squared = np.square(made.frames.astype(np.float64) - clip.frames).mean(-1)
        for measured in (1, 2):
            psnr[chosen, measured] = float(10 * np.log10(255**2 / max(squared[ids == measured].mean(), 1e-10)))
        figures.append(image(outlined(made.frames[-1], ids[-1] == chosen), f"object {chosen} chosen", f"{made.bytes:,} bytes"))
    for measured in (1, 2):
        own, other = psnr[measured, measured], psnr[3 - measured, measured]
        rows.append([str(measured), f"{own:.2f}", f"{other:.2f}", f"{own - other:+.2f}", f"{sizes[measured]:,}"])
    columns = ["object", "dB when chosen", "dB when the other is", "gain dB", "bytes when chosen"]
    table = Table(columns, rows, "The thesis claims 5 dB or more for every chosen instance at about equal bits.")
    return [Gallery(figures, columns=3, narrowest=160), table] if pictures else [table]


def amplifiers(study: Study) -> list[Block]:
    """Gain amplifiers from 1 to 64 (Eq. D.1) at three qualities, beside the curve of all qualities."""
    rows = study.rows([SCALING])
    best = study.model(SCALING).best_quality
    for quality in (1.0, (1 + best) / 2, best):
        for gain in study.scale.amplifiers:
            found = [study.row(SCALING, clip, quality, gain) for clip in study.clips]
            rows += [row._replace(codec=f"quality {quality:g}, ga 1 to 64", setting=gain) for row in found]
    labels = {row.label: row.label for row in rows}
    note = "Gain amplifiers 1 to 64 of one variable-rate model; 003 sweeps them for models of one rate."
    return [Figure(figure(rows, labels), note), rate_table(rows)]


def speeds(study: Study) -> list[Block]:
    """Frames a second of first (I) and predicted (P) frames on this machine; 003 has 1280 x 720 on a V100."""
    clip = study.clips[0]
    rows = []
    for label in (SSF, SCALING):
        codec = study.model(label)
        key = {"speed": label, "model": codec.model_id, "clip": clip.digest, "threads": torch.get_num_threads()}
        rows.append([label, *(f"{value:.2f}" for value in study.lab.once(key, partial(frame_rates, codec, clip)))])
    height, width = clip.frames.shape[1:3]
    parts = [f"{side} {kind}{how}" for how in ("", ", networks") for side in ("encode", "decode") for kind in ("I", "P")]
    caption = f"Frames a second, {width} x {height}, {torch.get_num_threads()} threads; the second half without entropy coding."
    return [Table(["method", *parts], rows, caption)]


def frame_rates(codec: VideoCodec, clip: RegionClip) -> list[float]:
    """The eight numbers of a row of Table D.1."""
    frames, masks = clip.frames[:2], clip.masks[:2]
    aware = codec.takes_gain and codec.default_gain(1.0) == 1.0
    roi = masks if aware else None

    def encode(count: int) -> bytes:
        return codec.compress(frames[:count], roi=None if roi is None else roi[:count], fps=25)

    blobs = [encode(count) for count in (1, 2)]
    encoded = [_seconds(partial(encode, count)) for count in (1, 2)]
    decoded = [_seconds(lambda blob=blob: sum(1 for _ in codec.frames(blob))) for blob in blobs]  # type: ignore[misc]
    model = codec.coder.model  # type: ignore[attr-defined]
    assert isinstance(model, ScaleSpaceFlow)
    pixels = [model.padded(torch.from_numpy(frame).permute(2, 0, 1)[None].float().div(255)) for frame in frames]
    networks = _network_seconds(model, pixels, torch.from_numpy(masks[:1, None]).float() if aware else None)
    seconds = [encoded[0], encoded[1] - encoded[0], decoded[0], decoded[1] - decoded[0], *networks]
    return [round(1 / max(value, 1e-9), 3) for value in seconds]


@torch.no_grad()
def _network_seconds(model: ScaleSpaceFlow, frames: Sequence[torch.Tensor], mask: torch.Tensor | None) -> list[float]:
    """Transforms alone: encode I, P, decode I, P."""
    seen = None if mask is None else model.padded(mask)
    y = model.intra.analysis(frames[0], seen)
    flow = model.motion.analysis(frames[1], frames[0], seen)
    residual = model.residual.analysis(frames[1] - frames[0], seen)

    def encode_inter() -> None:
        model.motion.analysis(frames[1], frames[0], seen)
        model.residual.analysis(frames[1] - model.predict(frames[0], flow), seen)

    def decode_inter() -> None:
        model.predict(frames[0], flow)
        model.residual.synthesis(residual, flow)

    acts: list[Callable[[], object]] = [
        lambda: model.intra.analysis(frames[0], seen), encode_inter, lambda: model.intra.synthesis(y), decode_inter
    ]  # fmt: skip
    return [_seconds(act) for act in acts]


def _seconds(act: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of some calls."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        found.append(time.perf_counter() - started)
    return min(found)


FIVE = (SSF, LOSS, OBIC, IMPLICIT, SCALING)
MAKERS: Mapping[str, Callable[[Study], list[Block]]] = MappingProxyType(
    {
        "figure6.1.1": partial(curves, (SSF, SCALING), "Latent scaling against plain scale-space flow"),
        "figure6.4.1": partial(curves, FIVE, "All methods, gamma 30"),
        "figure6.4.2": maps,
        "figure6.4.3": partial(looks, (SSF, IMPLICIT, SCALING)),
        "figure6.4.5": partial(curves, (SSF, SCALING, SCALING_PERLIN), "Regions of objects and of Perlin noise in training"),
        "figureD.1": regions,
        "figureD.2": partial(curves, (*FIVE, SCALING_10), "Gamma 30, and latent scaling also at gamma 10"),
        "figureD.4": partial(curves, (SSF, IMPLICIT, SCALING, SCALING_PERLIN), "Perlin masks at gamma 30"),
        "figureD.5": partial(instances, pictures=True),
        "figureD.6": partial(instances, pictures=False),
        "figureD.7": amplifiers,
        "figureD.8": partial(looks, (SSF, IMPLICIT, SCALING, SCALING_10)),
        "figureD.9": partial(looks, (SCALING, SCALING_PERLIN)),
        "tableD.1": speeds,
        "one_rate": one_rate,
    }
)


def made(name: str, lab: VideoLab) -> Report:
    """A table or figure. Raises UsageError or UnreadableInput for the data."""
    study = Study(lab)
    title = name.replace("figure", "Figure ").replace("table", "Table ")
    return Report(name=name, title=title, about=study.about(), blocks=MAKERS[name](study), facts=study.facts())


ARTIFACTS: Mapping[str, Artifact[VideoCodec, VideoScale]] = MappingProxyType(
    {name: Artifact(make=partial(made, name), scales=SCALES) for name in MAKERS}
)
