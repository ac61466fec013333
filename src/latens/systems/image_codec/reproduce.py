"""The tables and figures of 003, chapter 5 and appendix C, on any pictures and any codec of ours.

`latens reproduce image_codec/table5.4.1 --data kodak/` runs what is missing and writes one page, one JSON and the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from latens.errors import UsageError
from latens.inference.page import Block, Figure
from latens.inference.reproduction import Reproduction, scale_of
from latens.systems.image_codec import curves, figures, tables
from latens.systems.image_codec.experiments import SCALES, Laboratory
from latens.systems.image_codec.predict import ImageCodec

DRAWN: Mapping[str, Callable[[], bytes]] = MappingProxyType(
    {"figure5.3.1": figures.two_class_figure, "figure5.3.2": figures.three_class_figure}
)
MEASURED: Mapping[str, Callable[[Laboratory], list[Block]]] = MappingProxyType(
    {
        "methods": tables.methods,
        "table5.4.1": tables.temperature,
        "table5.4.2": tables.interpolation,
        "table5.4.3": tables.three_classes,
        "figure5.4.1": curves.overall,
        "figure5.4.2": curves.rate_early,
        "figure5.4.3": curves.semi_multi_rate_pruned,
        "figure5.4.4": curves.qualitative,
        "figureC.1": curves.interpolation,
        "figureC.2": curves.rate,
        "figureC.3": curves.rate_late,
        "figureC.4": curves.semi_multi_rate,
    }
)
NAMES = (*DRAWN, *MEASURED)


def reproduce(
    name: str,
    codec: ImageCodec,
    data: Path | None,
    out: Path,
    *,
    recipe: str = "desk",
    settings: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda line: None,
) -> Reproduction:
    """One table or figure, saved into `out`. `settings` change values of the recipe's `Scale`.

    Raises UsageError for an unknown name or recipe, and where pictures are needed and `data` is None.
    """
    scale = scale_of("image_codec", name, NAMES, recipe, SCALES, settings)
    if data is None and name not in DRAWN:
        raise UsageError(f"{name} is measured on pictures", where="--data", hint="give their folder; the thesis used Kodak")
    out.mkdir(parents=True, exist_ok=True)
    if data is None or name in DRAWN:
        drawn = Figure(DRAWN[name](), name.replace("figure", "Figure "))
        found = Reproduction(name, "probabilities of the rounding laws; no model and no pictures", {}, (drawn,))
    else:
        lab = Laboratory(codec, data, scale, out, progress)
        facts = {"model": codec.name, "model_id": codec.model_id, "recipe": recipe, "scale": asdict(scale)}
        facts["pictures"] = [subject.path.name for subject in lab.subjects]
        found = Reproduction(name, setting_of(lab), facts, tuple(MEASURED[name](lab)))
    found.save(out)
    return found


def setting_of(lab: Laboratory) -> str:
    scale, names = lab.scale, [subject.path.stem for subject in lab.subjects]
    part = f"their middle {scale.crop} x {scale.crop}" if scale.crop else "whole"
    return (
        f"{len(names)} pictures ({names[0]} to {names[-1]}), {part}; seed {scale.seed}; transforms in {lab.codec.precision}; "
        f"model {lab.codec.name}, weights {lab.codec.model_id[:12]}."
    )
