"""All tables and figures of Perugachi-Diaz 2024, chapter 3, on one page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

from latens.experiments.report import Report
from latens.inference.page import Part
from latens.systems.seedlings.chapter_figures import (
    figure31,
    figure33,
    figure34,
    figure35,
    figure36,
    figure37,
    figure38,
    figure_a1,
)
from latens.systems.seedlings.chapter_tables import EXPERIMENTS, search, table31, table34, table35, table36
from latens.systems.seedlings.trials import ChapterLab, Variant, about, each_run, trained

logger = logging.getLogger(__name__)

CONTENTS: Mapping[str, Callable[[ChapterLab], Report]] = MappingProxyType(
    {
        "table3.1": table31,
        "table3.4": table34,
        "table3.5": table35,
        "table3.6": table36,
        "figure3.1": figure31,
        "figure3.3": figure33,
        "figure3.4": figure34,
        "figure3.5": figure35,
        "figure3.6": figure36,
        "figure3.7": figure37,
        "figure3.8": figure38,
        "figureA.1": figure_a1,
    }
)


def chapter(lab: ChapterLab) -> Report:
    """All tables and figures of the chapter on one page. Processes may share the trainings."""
    started = time.process_time()
    lab.complete(trainings(lab))
    parts = []
    for make in CONTENTS.values():
        report = make(lab)
        parts.append(Part(report.title, list(report.blocks)))
    logger.info("%.0f CPU-seconds in this process; finished trainings are reused", time.process_time() - started)
    return Report(name="chapter", title="Perugachi-Diaz 2024, chapter 3", about=about(lab), parts=parts)


def trainings(lab: ChapterLab) -> Iterator[Callable[[], object]]:
    """Functions that each run one training of the chapter.

    The order is Table 3.5, class imbalance, the leaky split, the hyperparameter search.
    """
    scale = lab.scale
    for seed in each_run(scale):
        for backbone in dict.fromkeys((*scale.models, *scale.networks)):
            for day in scale.days:
                yield partial(trained, lab, backbone, day, seed)
    variants = (*(variant for variant, _ in EXPERIMENTS.values()), Variant(split="leaky"))
    for variant in variants:
        for day in scale.days:
            yield partial(trained, lab, scale.best, day, 0, variant)
    for backbone in scale.models:
        yield partial(search, lab, backbone)
