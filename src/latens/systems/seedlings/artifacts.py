"""Artifacts by name: tables and figures of Perugachi-Diaz 2024, chapter 3, and further experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from latens.contract import Artifact
from latens.experiments.report import Report
from latens.systems.seedlings.chapter import CONTENTS, chapter
from latens.systems.seedlings.chapter_tables import table33
from latens.systems.seedlings.experiments import attention, days, optimizers, species
from latens.systems.seedlings.trials import SCALES, ChapterLab

MAKERS: Mapping[str, Callable[[ChapterLab], Report]] = MappingProxyType(
    {
        **CONTENTS,
        "table3.3": table33,
        "days": days,
        "optimizers": optimizers,
        "attention": attention,
        "species": species,
        "chapter": chapter,
    }
)
ARTIFACTS: Mapping[str, Artifact[Any, Any]] = MappingProxyType(
    {name: Artifact(make=make, scales=SCALES) for name, make in MAKERS.items()}
)
