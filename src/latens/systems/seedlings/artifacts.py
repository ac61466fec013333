"""Tables and figures of 003, chapter 3, by name, and the experiments that it proposes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from latens.contract import Artifact
from latens.systems.seedlings.chapter import chapter
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
from latens.systems.seedlings.chapter_tables import table31, table33, table34, table35, table36
from latens.systems.seedlings.experiments import attention, days, optimizers, species
from latens.systems.seedlings.trials import SCALES

ARTIFACTS: Mapping[str, Artifact[Any, Any]] = MappingProxyType(
    {
        name: Artifact(make=make, scales=SCALES)
        for name, make in {
            "table3.1": table31,
            "table3.3": table33,
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
            "days": days,
            "optimizers": optimizers,
            "attention": attention,
            "species": species,
            "chapter": chapter,
        }.items()
    }
)
