"""Tables and figures of Perugachi-Diaz 2024, chapter 6 and appendix D, on clips with masks; `study` trains the methods.

The paper shows other DAVIS clips than those of the scale, and Cityscapes, which street images in motion replace
(`generalization`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np

from latens.codes.gains import lambda_at
from latens.contract import Artifact
from latens.experiments.report import Report
from latens.inference.page import Block, Figure, Gallery, Table
from latens.systems.video_codec.claims import claims
from latens.systems.video_codec.compare import delta
from latens.systems.video_codec.evaluate import figure, rate_table
from latens.systems.video_codec.generalization import METHODS, MISSING, STAND_IN, generalization, street_labels
from latens.systems.video_codec.objects import bars, images
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.speeds import speeds
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
    single_rate,
    trainings,
)
from latens.systems.video_codec.visualization import (
    DECIBELS,
    MAX_BITS,
    MIN_BITS,
    WINDOW,
    bits_image,
    bits_map,
    coded,
    image,
    mask_image,
    outlined,
    psnr_image,
    psnr_map,
    region_numbers,
    shown_frame,
)

CLAIM = "Perugachi-Diaz 2024 reports an ROI BD-rate of -69.3 % for latent scaling relative to SSF."


def curves(labels: Sequence[str], note: str, study: Study) -> list[Block]:
    """PSNR of region and background over the rate, and BD-rates relative to plain scale-space flow."""
    rows = study.rows(labels)
    found = []
    anchor = [row for row in rows if row.codec == SSF]
    for label in labels:
        if label != SSF and anchor:
            each = delta([row for row in rows if row.codec == label], anchor, label, SSF)
            found.append([label, *each.cells(), str(each.clips)])
    columns = ["method", "BD-rate region %", "background dB at equal rate", "BD-rate all %", "clips"]
    blocks: list[Block] = [Figure(figure(rows, {label: label for label in labels}), note)]
    if found:
        blocks.append(Table(columns, found, f"Relative to SSF, trained for as many steps. {CLAIM}"))
    return [*blocks, rate_table(rows)]


def maps(study: Study) -> list[Block]:
    """Figure 6.4.2: maps of bits and PSNR of one frame, for plain scale-space flow and latent scaling."""
    clip, quality = study.clips[0], study.scale.shown
    place = shown_frame(clip.frames)
    original, inside = clip.frames[place], clip.masks[place]
    heads = {
        SSF: image(original, f"{clip.name}, frame {place}", "original"),
        SCALING: mask_image(inside),
    }
    figures = []
    for label, head in heads.items():
        codec, region = study.model(label), label != SSF
        setting, _ = codec.setting(region, quality, None)
        decoded = coded(codec, clip, quality, region=region).frames[place]
        bits = bits_map(codec, clip, place, setting)
        share = 100 * bits[inside].sum() / max(bits.sum(), 1e-9)
        figures += [
            head,
            image(decoded, label, region_numbers(decoded, original, inside)),
            image(
                bits_image(bits), f"{label}: bits", f"{bits.mean():.3f} bpp in this frame, {share:.0f} % of them in the region"
            ),
            image(psnr_image(psnr_map(decoded, original)), f"{label}: PSNR", f"over {WINDOW} x {WINDOW} pixels"),
        ]
    scale = (
        f"Quality {quality:g}. Bits per pixel from {MIN_BITS:g} (dark) to {MAX_BITS:g} (bright), logarithmic; PSNR from "
        f"{DECIBELS[0]:g} dB (dark) to {DECIBELS[1]:g} dB (bright)."
    )
    return [Gallery(figures, columns=4, narrowest=160), scale]


def decoded_frames(labels: Sequence[str], study: Study) -> list[Block]:
    """One frame of every clip, decoded by every method."""
    galleries: list[Block] = []
    for clip in study.clips:
        place = shown_frame(clip.frames)
        figures = [image(outlined(clip.frames[place], clip.masks[place]), f"{clip.name}, frame {place}")]
        for label in labels:
            decoded = coded(study.model(label), clip, study.scale.shown, region=label not in (SSF, LOSS))
            bpp = 8 * decoded.bytes / clip.masks.size
            numbers = region_numbers(decoded.frames[place], clip.frames[place], clip.masks[place])
            figures.append(image(decoded.frames[place], label, f"{bpp:.3f} bpp; {numbers}"))
        galleries.append(Gallery(figures, columns=len(figures), narrowest=160))
    return galleries


def one_rate(study: Study) -> list[Block]:
    """One model for all rates, compared with models that are trained for as many steps for a single rate."""
    rows = []
    for quality in ONE_RATE:
        if quality > study.model(SSF).best_quality:
            continue
        losses = []
        for label in (SSF, single_rate(quality)):
            codec = study.model(label)
            found = [study.row(label, clip, quality) for clip in study.clips]
            weight = 255**2 * lambda_at(codec.config.lambdas, quality)
            bpp = np.mean([row.bpp for row in found])
            mse = np.mean([10 ** (-row.psnr / 10) for row in found])
            losses.append(bpp + weight * mse)
            worse = 100 * (losses[-1] / losses[0] - 1)
            numbers = [f"{bpp:.4f}", f"{-10 * np.log10(mse):.2f}", f"{losses[-1]:.4f}", f"{worse:+.2f}"]
            rows.append([label, f"{quality:g}", *numbers])
    columns = ["model", "quality", "bpp", "dB", "rate + distortion", "relative to the model for all rates %"]
    return [Table(columns, rows, "All trained for equal steps from one plain model; means over the clips; rates of files.")]


def regions(study: Study) -> list[Block]:
    """One frame of every clip, and its region."""
    figures = []
    for clip in study.clips:
        place = shown_frame(clip.frames)
        figures += [image(clip.frames[place], f"{clip.name}, frame {place}"), mask_image(clip.masks[place])]
    return [Gallery(figures, columns=4, narrowest=160)]


def amplifiers(study: Study) -> list[Block]:
    """Gain amplifiers from 1 to 64 (Eq. D.1) at three qualities, and the curve of all qualities."""
    rows = [*study.rows([SCALING], study.swept), *(row for found in study.sweeps().values() for row in found)]
    labels = {row.label: row.label for row in rows}
    names = ", ".join(clip.name for clip in study.swept)
    note = f"Gain amplifiers of one variable-rate model (three models of one rate each in the paper); {names}"
    return [Figure(figure(rows, labels), "Rate by gain amplifier", note), rate_table(rows)]


def regions_of_both(study: Study) -> list[Block]:
    """Figure D.1: regions of clips of objects, and of streets."""
    return [*regions(study), *street_labels(study)]


FIVE, THREE = (SSF, LOSS, OBIC, IMPLICIT, SCALING), (SSF, IMPLICIT, SCALING)
TRAINED: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "figure6.1.1": (SSF, SCALING),
        "figure6.4.1": FIVE,
        "figure6.4.2": (SSF, SCALING),
        "figure6.4.3": THREE,
        "figure6.4.4": METHODS[30],
        "figure6.4.5": (SSF, SCALING, SCALING_PERLIN),
        "figureD.1": (),
        "figureD.2": (*FIVE, SCALING_10),
        "figureD.3": (*METHODS[10], *METHODS[30]),
        "figureD.4": (*THREE, SCALING_PERLIN),
        "figureD.5": (SCALING,),
        "figureD.6": (SCALING,),
        "figureD.7": (SCALING,),
        "figureD.8": (*THREE, SCALING_10),
        "figureD.9": (SCALING, SCALING_PERLIN),
        "tableD.1": (SSF, SCALING),
        "one_rate": (SSF, *map(single_rate, ONE_RATE)),
        "claims": (*FIVE, SCALING_10, SCALING_PERLIN),
    }
)
"""The methods of every table and figure. `claims` needs one more, trained on streets, if the data have street images."""


def curves_of(name: str, note: str) -> Callable[[Study], list[Block]]:
    """A figure of curves of its methods."""
    return partial(curves, TRAINED[name], note)


MAKERS: Mapping[str, Callable[[Study], list[Block]]] = MappingProxyType(
    {
        "figure6.1.1": curves_of("figure6.1.1", "Latent scaling and plain scale-space flow"),
        "figure6.4.1": curves_of("figure6.4.1", "All methods, gamma 30"),
        "figure6.4.2": maps,
        "figure6.4.3": partial(decoded_frames, TRAINED["figure6.4.3"]),
        "figure6.4.4": partial(generalization, (30,)),
        "figure6.4.5": curves_of("figure6.4.5", "Regions of objects and of Perlin noise in training"),
        "figureD.1": regions_of_both,
        "figureD.2": curves_of("figureD.2", "Gamma 30, and latent scaling also at gamma 10"),
        "figureD.3": partial(generalization, (10, 30)),
        "figureD.4": curves_of("figureD.4", "Perlin masks at gamma 30"),
        "figureD.5": images,
        "figureD.6": bars,
        "figureD.7": amplifiers,
        "figureD.8": partial(decoded_frames, TRAINED["figureD.8"]),
        "figureD.9": partial(decoded_frames, TRAINED["figureD.9"]),
        "tableD.1": partial(speeds, TRAINED["tableD.1"]),
        "one_rate": one_rate,
        "claims": partial(claims, TRAINED["claims"]),
    }
)
ON_STREETS = ("figure6.4.4", "figureD.3")


def report(name: str, lab: VideoLab) -> Report:
    """A table or figure. Raises UsageError or UnreadableInput for the data."""
    study = Study(lab)
    blocks, facts = MAKERS[name](study), study.facts()
    title = name.replace("figure", "Figure ").replace("table", "Table ")
    left_out: list[str] = []
    if name in ON_STREETS:
        title, facts["stand_in"] = f"{title} (substitute for Cityscapes)", STAND_IN
        if not study.street_sources:
            left_out, facts["training"] = [f"{name}: {MISSING}"], {}
    return Report(
        name=name, title=title, about=study.about(trained=bool(TRAINED[name])), blocks=blocks, facts=facts, failures=left_out
    )


ARTIFACTS: Mapping[str, Artifact[VideoCodec, VideoScale]] = MappingProxyType(
    {name: Artifact(partial(report, name), SCALES, partial(trainings, TRAINED[name])) for name in MAKERS}
)
