"""Figures of 003, chapter 5, that need no model: the probability curves of the rounding laws."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from latens.codes.annealing import RoundingLaw
from latens.codes.rounding import log_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#1f2430", "#d9dde3"
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
STYLES = ("-", "--", ":")
POINTS = 1001
NAMES = {"atanh": "atanh (not normalised)", "linear": "linear", "cosine": "cosine", "ssl": "SSL, a = 4/3"}


class ProbabilityCurve(NamedTuple):
    """How likely an integer is over a range of v. `integer` counts from floor(v), with three classes from round(v)."""

    name: str
    integer: int
    v: list[float]
    probability: list[float]


def two_class_curves() -> list[ProbabilityCurve]:
    """Floor and ceiling of v in [0, 1) under the four laws (003, Fig. 5.3.1); atanh as it stands in Eq. 5.2.3."""
    v = torch.linspace(0, 1, POINTS, dtype=torch.float64)[:-1]
    curves = []
    for method, name in NAMES.items():
        weights = log_weights(v, RoundingLaw(method=method)).exp()  # type: ignore[arg-type]
        curves += [ProbabilityCurve(name, k, v.tolist(), weights[k].tolist()) for k in (0, 1)]
    return curves


def three_class_curves() -> list[ProbabilityCurve]:
    """round(v) - 1, round(v) and round(v) + 1 of v in [-1.5, 1.5] under the linear law (003, Fig. 5.3.2)."""
    v = torch.linspace(-1.5, 1.5, POINTS, dtype=torch.float64)
    curves = []
    for r, n in ((1.0, 1.0), (0.9, 1.0), (1.0, 3.0)):
        law = RoundingLaw(method="linear", classes=3, r=r, n=n)
        shares = log_weights(v, law).softmax(dim=0)
        name = f"r = {r:g}, n = {n:g}"
        curves += [ProbabilityCurve(name, k, v.tolist(), shares[k + 1].tolist()) for k in (-1, 0, 1)]
    return curves


def two_class_figure(*, dpi: int = 150) -> bytes:
    """Figure 5.3.1 as a PNG: solid lines for the floor, dotted ones for the ceiling, one colour a law."""

    def draw(axes: Axes) -> None:
        for curve in two_class_curves():
            colour = COLOURS[list(NAMES.values()).index(curve.name)]
            label = curve.name if curve.integer == 0 else None
            axes.plot(curve.v, curve.probability, color=colour, linestyle=":" if curve.integer else "-", label=label)
        axes.set_xlabel("v − ⌊v⌋", color=INK)

    return _png(draw, "Two-class rounding: ⌊v⌋ solid, ⌈v⌉ dotted", dpi)


def three_class_figure(*, dpi: int = 150) -> bytes:
    """Figure 5.3.2 as a PNG: one colour an integer, solid, dashed and dotted lines for the settings of (r, n)."""
    curves = three_class_curves()
    names = list(dict.fromkeys(curve.name for curve in curves))

    def draw(axes: Axes) -> None:
        for curve in curves:
            style = STYLES[names.index(curve.name)]
            label: str | None = f"⌊v⌉{curve.integer:+d}, {curve.name}" if curve.integer else f"⌊v⌉, {curve.name}"
            for v, probability in _pieces(curve):
                axes.plot(v, probability, color=COLOURS[curve.integer + 1], linestyle=style, label=label)
                label = None
        axes.set_xlabel("v", color=INK)

    return _png(draw, "Three-class rounding, linear", dpi)


def _pieces(curve: ProbabilityCurve) -> list[tuple[list[float], list[float]]]:
    """The curve cut where round(v) changes, so that no line is drawn across the step."""
    cuts = [i for i in range(1, len(curve.v)) if round(curve.v[i]) != round(curve.v[i - 1])]
    ends = zip([0, *cuts], [*cuts, len(curve.v)], strict=True)
    return [(curve.v[a:b], curve.probability[a:b]) for a, b in ends]


def _png(draw: Callable[[Axes], None], title: str, dpi: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.9), dpi=dpi, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.set_ylabel("probability", color=INK)
    axes.set_title(title, fontsize=11, color=INK, loc="left", weight="bold")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    columns = min(len(axes.get_legend_handles_labels()[1]), 3)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=INK)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})  # the same data gives the same bytes
    return buffer.getvalue()
