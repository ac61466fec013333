"""Figures 6.4.4 and D.3 of 003: methods trained on clips of objects and on streets, measured on streets.

Cityscapes is not available. Images of streets with label maps, panned and zoomed into clips (`streets`), stand in for it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from latens.inference.page import Block, Figure, Gallery, Table
from latens.systems.video_codec.compare import delta
from latens.systems.video_codec.evaluate import figure, rate_table
from latens.systems.video_codec.looks import colored_labels, image, outlined, shown_frame
from latens.systems.video_codec.measure import RegionClip, Row
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

logger = logging.getLogger(__name__)

STAND_IN = (
    "Stand-in for Cityscapes: images of streets with label maps (CamVid), panned and zoomed into clips, so nothing in them "
    f"moves by itself. Region: {', '.join(REGION)}."
)
MISSING = f"it is measured on images of streets with label maps: add {KIND}:DIR to --data"
METHODS: Mapping[int, tuple[str, str, str, str]] = MappingProxyType(  # by gamma: trained on clips of objects, on streets
    {10: (SSF, SSF_STREETS, SCALING_10, SCALING_10_STREETS), 30: (SSF, SSF_STREETS, SCALING, SCALING_STREETS)}
)


def street_regions(study: Study) -> list[RegionClip]:
    """The street clips with the region of 003."""
    return [RegionClip(clip.name, clip.frames, clip.region()) for clip in study.streets]


def generalization(gammas: Sequence[int], study: Study) -> list[Block]:
    """Curves and comparisons for these gammas; a sentence without images of streets."""
    if not study.street_sources:
        logger.warning("not made: %s", MISSING)
        return [f"Not made: {MISSING}."]
    blocks: list[Block] = [STAND_IN]
    for gamma in gammas:
        labels = METHODS[gamma]
        rows = study.rows(labels, street_regions(study))
        titles = dict(
            zip(labels, ("SSF, objects", "SSF, streets", "latent scaling, objects", "latent scaling, streets"), strict=True)
        )
        note = f"Gamma {gamma}, stand-in for Cityscapes; the legend names method and training data"
        blocks += [
            Figure(figure(rows, titles), f"Measured on streets, gamma {gamma}", note),
            gaps(gamma, rows),
            rate_table(rows),
        ]
    return blocks


def gaps(gamma: int, rows: Sequence[Row]) -> Table:
    """Cost of training on other data, and the region-aware model of objects against plain SSF of streets."""
    ssf, ssf_streets, scaling, scaling_streets = METHODS[gamma]
    questions = (
        ("data gap (003: slightly worse)", ssf, ssf_streets),
        ("data and region gap (003: similar)", scaling, scaling_streets),
        ("objects with regions against streets without (003: better)", scaling, ssf_streets),
    )
    found = []
    for question, tested, anchor in questions:
        own, other = ([row for row in rows if row.codec == label] for label in (tested, anchor))
        each = delta(own, other, tested, anchor)
        found.append([question, tested, anchor, *each.cells(), str(each.clips)])
    columns = ["question", "tested", "against", "BD-rate region %", "rest dB at equal rate", "BD-rate all %", "clips"]
    return Table(columns, found, f"Gamma {gamma}. Positive BD-rates: more bits than the model it is compared with.")


def street_labels(study: Study) -> list[Block]:
    """Street images, their label maps, and the regions made of them: the lower row of Figure D.1."""
    if not study.street_sources:
        return [f"The row of streets is left out: {MISSING}."]
    figures = []
    for clip in study.streets:
        place = shown_frame(clip.frames)
        inside = clip.region()[place]
        figures += [
            image(clip.frames[place], f"{clip.name}, frame {place}", "stand-in for Cityscapes"),
            image(colored_labels(clip.labels[place], len(CLASSES)), "label map", "a color for every class, black: void"),
            image(
                outlined(clip.frames[place], inside), "region", f"{100 * inside.mean():.1f} % of the frame: {', '.join(REGION)}"
            ),
        ]
    return [STAND_IN, Gallery(figures, columns=3, narrowest=160)]
