"""Rate-distortion plots and line plots, without the global state of pyplot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from latens.metrics.rate import Curve, trace

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as FigureOfPlot

INK, GRID = "#1f2430", "#d9dde3"
# Palette of Okabe and Ito, distinguishable in print and for color-blind readers; our codec comes first, in a warm color.
COLORS = ("#d55e00", "#56718a", "#009e73", "#0072b2", "#cc79a7", "#7a6a00")
MARKERS = ("o", "s", "^", "D", "v", "P")
LABEL_GAP = 0.045  # minimum distance of the labels at the ends of curves, relative to the height of the axes


class Panel(NamedTuple):
    """One pair of axes: the quality metric on the y axis and the curves, ours first."""

    quality: str
    curves: Sequence[Curve]


class Line(NamedTuple):
    """One line of a plot. Lines with the same number `color` have the same color; a line without a name has no legend entry."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    style: str = "-"  # format string of matplotlib; "o", "--o" and so on also draw the points


class LinePanel(NamedTuple):
    """One pair of axes with lines. `limits` sets the y axis, for data with outliers."""

    x_label: str
    y_label: str
    lines: Sequence[Line]
    title: str = ""
    limits: tuple[float, float] | None = None


def rate_distortion_plot(panels: Sequence[Panel], *, title: str = "", dpi: int = 150) -> bytes:
    """PNG of rate-distortion curves, one panel per metric; the x axis spans the rates of the first curve.

    Every curve has its name at its end. Panels without curves are omitted. Raises ValueError if no panel remains.
    """
    panels = [panel for panel in panels if panel.curves]
    if not panels:
        raise ValueError("there is nothing to plot")
    figure = _figure((6.4 * len(panels), 4.4), dpi)
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), index + 1), panel)
    return _png(figure, title)


def line_plot(panels: Sequence[LinePanel], *, columns: int = 2, title: str = "", dpi: int = 150) -> bytes:
    """PNG of panels in rows of `columns` with one legend. Raises ValueError without panels."""
    if not panels:
        raise ValueError("there is nothing to plot")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure((6.4 * columns, 0.6 + 4.0 * rows), dpi)
    named: dict[str, Artist] = {}
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for line in panel.lines:
            color = COLORS[line.color % len(COLORS)]
            (drawn,) = axes.plot(line.x, line.y, line.style, color=color, linewidth=1.5, markersize=3.5)
            if line.name:
                named.setdefault(line.name, drawn)
        axes.set_xlabel(panel.x_label, color=INK)
        axes.set_ylabel(panel.y_label, color=INK)
        axes.set_title(panel.title, fontsize=10, color=INK, loc="left")
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
        _tidy(axes)
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=min(len(named), 3 * columns),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return _png(figure, title)


def _figure(size: tuple[float, float], dpi: int) -> FigureOfPlot:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: FigureOfPlot, title: str) -> bytes:
    if title:
        figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left", weight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # the same data gives the same bytes
    return buffer.getvalue()


def _tidy(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, panel: Panel) -> None:
    ours = panel.curves[0]
    right = 1.12 * max(ours.rates)
    lowest = min(ours.qualities)
    spread = max(max(ours.qualities) - lowest, 1e-3)
    axes.set_xlim(0, right)
    axes.set_ylim(lowest - 0.25 * spread, max(_height_at(curve, right) for curve in panel.curves) + 0.08 * spread)
    for order, curve in enumerate(panel.curves):
        color, depth = COLORS[order % len(COLORS)], 10 - order
        line = trace(curve)
        width, size = (2.4, 5.0) if order == 0 else (1.4, 3.5)
        axes.plot([rate for rate, _ in line], [quality for _, quality in line], color=color, linewidth=width, zorder=depth)
        marker = MARKERS[order % len(MARKERS)]
        axes.plot(curve.rates, curve.qualities, marker, color=color, markersize=size, zorder=depth)
    _name_curves(axes, panel.curves, right)
    axes.set_xlabel("bits per pixel (bytes of the file)", color=INK)
    axes.set_ylabel(panel.quality, color=INK)
    _tidy(axes)


def _name_curves(axes: Axes, curves: Sequence[Curve], right: float) -> None:
    """Write the names of the curves at the right edge, without overlap."""
    bottom, top = axes.get_ylim()
    ends = sorted(((min(max(_height_at(curve, right), bottom), top), order) for order, curve in enumerate(curves)))
    placed = bottom - top
    for height, order in ends:
        placed = max(height, placed + LABEL_GAP * (top - bottom))
        axes.annotate(
            curves[order].name,
            (right, placed),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=COLORS[order % len(COLORS)],
            fontsize=9.5,
            weight="bold" if order == 0 else "normal",
            annotation_clip=False,
        )


def _height_at(curve: Curve, rate: float) -> float:
    """Highest quality of the curve up to a rate; its lowest quality if all its rates are higher."""
    line = trace(curve)
    return max((quality for cost, quality in line if cost <= rate), default=min(curve.qualities))
