"""Figures 6.4.4 and D.3 of Perugachi-Diaz 2024: methods trained on clips of objects and on streets, measured on streets.

Street images with label maps, panned and zoomed into clips (`streets`), replace Cityscapes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from latens.inference.page import Block, Figure, Gallery, Table
from latens.systems.video_codec.compare import delta
from latens.systems.video_codec.evaluate import figure, rate_table
from latens.systems.video_codec.measure import ClipRow, RegionClip
from latens.systems.video_codec.streets import CLASSES, KIND, REGION
from latens.systems.video_codec.study import (
    SCALING,
    SCALING_10,
    SCALING_10_STREETS,
    SCALING_STREETS,
    SSF,
    SSF_STREETS,
    Study,
)
from latens.systems.video_codec.visualization import colored_labels, image, outlined, shown_frame

logger = logging.getLogger(__name__)

STAND_IN = (
    "Substitute for Cityscapes: street images with label maps (CamVid), panned and zoomed into clips. Objects in them do not "
    f"move independently. Region: {', '.join(REGION)}."
)
MISSING = f"needs street images with label maps: add {KIND}:DIR to --data"
METHODS: Mapping[int, tuple[str, str, str, str]] = MappingProxyType(  # by gamma: trained on clips of objects, on streets
    {10: (SSF, SSF_STREETS, SCALING_10, SCALING_10_STREETS), 30: (SSF, SSF_STREETS, SCALING, SCALING_STREETS)}
)


def street_regions(study: Study) -> list[RegionClip]:
    """The street clips with the region of the paper."""
    return [RegionClip(clip.name, clip.frames, clip.region()) for clip in study.streets]


def generalization(gammas: Sequence[int], study: Study) -> list[Block]:
    """Curves and comparisons for these gammas; a note without street images."""
    if not study.street_sources:
        logger.warning("figure left out: %s", MISSING)
        return [f"Left out: {MISSING}."]
    blocks: list[Block] = [STAND_IN]
    for gamma in gammas:
        labels = METHODS[gamma]
        rows = study.rows(labels, street_regions(study))
        titles = dict(
            zip(labels, ("SSF, objects", "SSF, streets", "latent scaling, objects", "latent scaling, streets"), strict=True)
        )
        note = f"Gamma {gamma}, substitute for Cityscapes; the legend gives method and training data"
        blocks += [
            Figure(figure(rows, titles), f"Measured on streets, gamma {gamma}", note),
            gaps(gamma, rows),
            rate_table(rows),
        ]
    return blocks


def gaps(gamma: int, rows: Sequence[ClipRow]) -> Table:
    """Cost of training on other data, and latent scaling trained on objects relative to plain SSF trained on streets."""
    ssf, ssf_streets, scaling, scaling_streets = METHODS[gamma]
    questions = (
        ("data gap (published: slightly worse)", ssf, ssf_streets),
        ("data and region gap (published: similar)", scaling, scaling_streets),
        ("objects with regions, streets without (published: better)", scaling, ssf_streets),
    )
    found = []
    for question, tested, anchor in questions:
        own, other = ([row for row in rows if row.codec == label] for label in (tested, anchor))
        each = delta(own, other, tested, anchor)
        found.append([question, tested, anchor, *each.cells(), str(each.clips)])
    columns = ["question", "tested", "relative to", "BD-rate region %", "background dB at equal rate", "BD-rate all %", "clips"]
    return Table(columns, found, f"Gamma {gamma}. Positive BD-rates: more bits than the anchor.")


def street_labels(study: Study) -> list[Block]:
    """Street images, their label maps and regions: the lower row of Figure D.1."""
    if not study.street_sources:
        return [f"The row of streets is left out: it {MISSING}."]
    figures = []
    for clip in study.streets:
        place = shown_frame(clip.frames)
        inside = clip.region()[place]
        figures += [
            image(clip.frames[place], f"{clip.name}, frame {place}", "substitute for Cityscapes"),
            image(colored_labels(clip.labels[place], len(CLASSES)), "label map", "one color per class; black: void"),
            image(
                outlined(clip.frames[place], inside), "region", f"{100 * inside.mean():.1f} % of the frame: {', '.join(REGION)}"
            ),
        ]
    return [STAND_IN, Gallery(figures, columns=3, narrowest=160)]
