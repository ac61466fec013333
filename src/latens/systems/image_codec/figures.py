"""Figures of 003, chapter 5, that need no model: the probability curves of the rounding laws."""

from __future__ import annotations

from typing import NamedTuple

import torch

from latens.codes.annealing import RoundingLaw
from latens.codes.rounding import log_weights
from latens.metrics.plot import Line, LinePanel, line_plot

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


def two_class_figure() -> bytes:
    """Figure 5.3.1 as a PNG: solid lines for the floor, dotted ones for the ceiling, one colour a law."""
    names = list(NAMES.values())
    lines = [
        Line("" if curve.integer else curve.name, curve.v, curve.probability, names.index(curve.name), "-:"[curve.integer])
        for curve in two_class_curves()
    ]
    return line_plot([LinePanel("v − ⌊v⌋", "probability", lines)], title="Two-class rounding: ⌊v⌋ solid, ⌈v⌉ dotted")


def three_class_figure() -> bytes:
    """Figure 5.3.2 as a PNG: one colour an integer, solid, dashed and dotted lines for the settings of (r, n)."""
    curves = three_class_curves()
    names = list(dict.fromkeys(curve.name for curve in curves))
    lines = []
    for curve in curves:
        label = f"⌊v⌉{curve.integer:+d}, {curve.name}" if curve.integer else f"⌊v⌉, {curve.name}"
        style = STYLES[names.index(curve.name)]
        lines += [Line(label, v, probability, curve.integer + 1, style) for v, probability in _pieces(curve)]
    return line_plot([LinePanel("v", "probability", lines)], title="Three-class rounding, linear")


def _pieces(curve: ProbabilityCurve) -> list[tuple[list[float], list[float]]]:
    """The curve cut where round(v) changes, so that no line is drawn across the step."""
    cuts = [i for i in range(1, len(curve.v)) if round(curve.v[i]) != round(curve.v[i - 1])]
    ends = zip([0, *cuts], [*cuts, len(curve.v)], strict=True)
    return [(curve.v[a:b], curve.probability[a:b]) for a, b in ends]
