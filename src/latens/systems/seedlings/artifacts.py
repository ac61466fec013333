"""Artifacts by name: tables and figures of Perugachi-Diaz 2024, chapter 3, and further experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from latens.contract import Artifact, nothing_trained
from latens.experiments.report import Report
from latens.systems.seedlings import plans
from latens.systems.seedlings.chapter import CONTENTS, chapter
from latens.systems.seedlings.chapter_tables import table33
from latens.systems.seedlings.experiments import SPECIES_SCALES, attention, days, optimizers, species, species_config
from latens.systems.seedlings.trials import SCALES, ChapterLab, ChapterScale

PLANS: Mapping[str, Callable[[ChapterScale], plans.Trainings]] = MappingProxyType(
    {
        "table3.3": plans.of_search,
        "table3.4": plans.of_search,
        "table3.5": plans.of_models,
        "table3.6": plans.of_imbalance,
        "figure3.3": plans.of_models,
        "figure3.4": plans.of_networks,
        "figure3.5": plans.of_networks,
        "figure3.6": plans.of_models,
        "figure3.7": plans.of_original,
        "figure3.8": plans.of_exchange,
        "days": plans.of_days,
        "optimizers": plans.of_optimizers,
        "attention": plans.of_attention,
        "chapter": plans.of_chapter,
    }
)
"""Artifact -> the trainings of its rows; the others train nothing."""

MAKERS: Mapping[str, Callable[[ChapterLab], Report]] = MappingProxyType(
    {**CONTENTS, "table3.3": table33, "days": days, "optimizers": optimizers, "attention": attention, "chapter": chapter}
)


def artifact(name: str) -> Artifact[Any, ChapterScale]:
    """A table or figure. Its fact `training` tells epochs instead of steps, as their number depends on the data."""
    plan, make = PLANS.get(name, nothing_trained), MAKERS[name]

    def made(lab: ChapterLab) -> Report:
        scale, report = lab.scale, make(lab)
        found = {
            row: f"protocol {scale.protocol}, {scale.epochs} epochs of batches of {config.data.batch}, rate {config.optim.lr:g}"
            for row, config in plan(scale).items()
        }
        return replace(report, facts={**report.facts, "training": found}) if found else report

    return Artifact(made, SCALES, plan)


ARTIFACTS: Mapping[str, Artifact[Any, Any]] = MappingProxyType(
    {name: artifact(name) for name in MAKERS}
    | {"species": Artifact(species, SPECIES_SCALES, lambda scale: {"every fold": species_config(scale)})}
)
