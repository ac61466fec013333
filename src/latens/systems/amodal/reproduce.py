"""The tables of 000: `latens reproduce amodal/table1 -o tables` trains and measures what is missing in the folder.

Without data the rows are trained and tested on simulated embryos, and `codebook` on embryos and opaque shapes. Each table is
written as one page and one JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latens.inference.reproduction import Reproduction, scale_of
from latens.systems.amodal.experiments import SCALES, Laboratory
from latens.systems.amodal.pipeline import STRIDE
from latens.systems.amodal.tables import TABLES

NAMES = tuple(TABLES)
TRAINED_HERE = frozenset(TABLES)
"""Names that need no trained model: the command trains its own (see `train_and_reproduce`)."""
SEVERAL_SETS = True  # --data takes several words
EMBRYOS, DIVERSE = ("simulated",), ("simulated", "simulated:opaque")


def train_and_reproduce(
    name: str,
    data: Sequence[Path] | None,
    out: Path,
    *,
    recipe: str = "desk",
    settings: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda line: None,
    device: str = "auto",
) -> Reproduction:
    """A table, saved into `out`; `data` are words of `sources`, `settings` change values of the recipe's `Scale`.

    Raises UsageError for an unknown name, recipe, setting or word, InputError for data that cannot be used.
    """
    scale = scale_of("amodal", name, TABLES, recipe, SCALES, settings)
    if name == "codebook":  # shapes are learned in the size they are tested in
        scale = replace(scale, size=scale.side - scale.side % STRIDE)
    words = [str(word) for word in data or ()] or list(DIVERSE if name == "codebook" else EMBRYOS)
    lab = Laboratory(words, scale, out, progress, device)
    blocks = tuple(TABLES[name](lab))
    facts = {"data": words, "recipe": recipe, "scale": asdict(scale), "runs": [plain(run) for run in lab.done]}
    found = Reproduction(name, setting_of(lab), facts, blocks)
    found.save(out)
    return found


def setting_of(lab: Laboratory) -> str:
    """Data and scale in a sentence."""
    size = lab.scale.size or lab.base.model.size
    digests = {run.digest[:12] for run in lab.done}
    named = f" (test set {', '.join(sorted(digests))})" if digests else ""
    return (
        f"Trained on {' and '.join(lab.words)} by recipe {lab.scale.recipe}, pictures of {size} pixels; tested on "
        f"{len(lab.test)} pictures of {lab.scale.side} pixels of {lab.test_name}{named}."
    )


def plain(run: Any) -> dict[str, Any]:
    """A result for JSON, which has no NaN."""
    numbers = {name: None if math.isnan(value) else value for name, value in run.numbers.items()}
    return {**run._asdict(), "numbers": numbers}
