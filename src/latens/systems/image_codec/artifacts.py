"""The tables and figures of 003, chapter 5 and appendix C, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from latens.contract import Artifact
from latens.experiments.report import Report
from latens.inference.page import Block, Figure
from latens.systems.image_codec import curves, figures, tables
from latens.systems.image_codec.predict import ImageCodec
from latens.systems.image_codec.runs import SCALES, CodecLab, Refinements, Scale

DRAWN: Mapping[str, Callable[[], bytes]] = MappingProxyType(
    {"figure5.3.1": figures.two_class_figure, "figure5.3.2": figures.three_class_figure}
)
MEASURED: Mapping[str, Callable[[Refinements], list[Block]]] = MappingProxyType(
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


def drawn(name: str, lab: CodecLab) -> Report:
    """A figure that needs no model and no images."""
    title = name.replace("figure", "Figure ")
    about = "probabilities of the rounding laws; no model and no images"
    return Report(name=name, title=title, about=about, blocks=[Figure(DRAWN[name](), title)])


def measured(name: str, lab: CodecLab) -> Report:
    """A table or figure of refinement runs."""
    runs = Refinements(lab)
    blocks = MEASURED[name](runs)
    return Report(name=name, title=f"image_codec {name}", about=runs.setting(), blocks=blocks, facts=runs.facts())


ARTIFACTS: Mapping[str, Artifact[ImageCodec, Scale]] = MappingProxyType(
    {
        **{name: Artifact(partial(drawn, name), SCALES) for name in DRAWN},
        **{name: Artifact(partial(measured, name), SCALES) for name in MEASURED},
    }
)
