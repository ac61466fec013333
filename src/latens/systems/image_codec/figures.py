"""Figures 5.3.1 to 5.4.4 and C.1 to C.4 of Perugachi-Diaz 2024.

They show rounding laws, the loss over the steps of a refinement, rate-distortion curves and details of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from latens.codes.annealing import Method, Refine, RoundingLaw
from latens.codes.gains import quality_at
from latens.codes.rounding import log_weights
from latens.data.image_output import png_bytes
from latens.data.images import read_image
from latens.inference.page import Block, Figure, Gallery, Table
from latens.metrics.image import psnr
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.metrics.rate import bd_rate
from latens.systems.image_codec.runs import History, Study, Subject
from latens.systems.image_codec.tables import EARLY, base_of, interpolation_runs

TARGETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)  # lambdas of section 5.4.5
Points = Sequence[tuple[float, float]]  # bpp, dB
BASELINES: tuple[Method, ...] = ("ste", "uniform", "atanh", "ssl")
STARTS = (0.0025, 0.01, 0.04)  # lambdas that the semi-multi-rate figures start from below full scale
SHOWN = "kodim19"  # image of Figure 5.4.4 (lighthouse behind a fence), if --data has it
FULL_RATE_STEPS = 2000
DETAIL = 224  # side of a detail in pixels


def overall(study: Study) -> list[Block]:
    """Figure 5.4.1: STE, uniform noise, atanh and SSL over the steps."""
    runs: dict[str, History] = {method: study.run(base_of(study), study.published(method)) for method in BASELINES}
    return [Figure(along_the_steps(runs, robust=False), "Figure 5.4.1: true loss, its gap to the relaxed loss, PSNR and rate")]


def interpolation(study: Study) -> list[Block]:
    """Figure C.1: SSL with shapes a from 0.01 to 5."""
    runs = {f"a = {a:.3g}": histories[0] for a, histories in interpolation_runs(study).items()}
    title = "Figure C.1: SSL with other shapes; diverging runs exceed the axes"
    return [Figure(along_the_steps(runs, robust=True), title)]


def along_the_steps(runs: Mapping[str, History], *, robust: bool) -> bytes:
    """Four panels as in Figure 5.4.1, as a PNG; `robust` fits the axes to three quarters of the runs."""
    columns = {
        "true loss": lambda h: h.true_loss,
        "relaxed loss − true loss": lambda h: [a - b for a, b in zip(h.loss, h.true_loss, strict=True)],
        "PSNR (dB)": lambda h: h.psnr,
        "bits per pixel": lambda h: h.bpp,
    }
    panels = []
    for label, column in columns.items():
        lines = [Line(name, h.steps, column(h), place) for place, (name, h) in enumerate(runs.items())]
        panels.append(LinePanel("step", label, lines, limits=_limits(lines) if robust else None))
    return line_plot(panels)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    ends = np.array([[np.nanmin(line.y), np.nanmax(line.y)] for line in lines])
    low, high = np.quantile(ends[:, 0], 0.1), np.quantile(ends[:, 1], 0.75)
    margin = 0.08 * (high - low)
    return float(low - margin), float(high + margin)


# -------------------------------------------------------------------------------------------------- rate, distortion


def rate_early(study: Study) -> list[Block]:
    """Figure 5.4.2 on the given images: unrefined latents, atanh and SSL after 500 steps."""
    return _rate(study, ("atanh", "ssl"), EARLY, "Figure 5.4.2")


def rate_late(study: Study) -> list[Block]:
    """Figure C.3 on the given images: unrefined latents, atanh and SSL after all steps."""
    return _rate(study, ("atanh", "ssl"), study.scale.rate_steps, "Figure C.3")


def rate(study: Study) -> list[Block]:
    """Figure C.2: all baselines after 500 and after all steps."""
    steps = sorted({min(EARLY, study.scale.rate_steps), study.scale.rate_steps})
    return [block for count in steps for block in _rate(study, BASELINES, count, "Figure C.2")]


def _rate(study: Study, methods: Sequence[Method], step: int, name: str) -> list[Block]:
    found: dict[str, Points] = {}
    for method in methods:
        histories = [study.run(base, study.published(method, steps=study.scale.rate_steps)) for base in study.lambdas]
        found["plain"] = [_point(history, 0) for history in histories]
        found[method] = [_point(history, step) for history in histories]
    title = f"{name}: after {min(step, study.scale.rate_steps)} steps, lambda {', '.join(f'{w:g}' for w in study.lambdas)}"
    lines = [_line(curve, points, place, "-o") for place, (curve, points) in enumerate(found.items())]
    plot = line_plot([LinePanel("bits per pixel (code length)", "PSNR (dB)", lines)])
    rows = [
        [curve, _bd(found["plain"], points), *(f"{bpp:.4f} / {db:.2f}" for bpp, db in points)]
        for curve, points in found.items()
    ]
    columns = ["", "BD-rate", *(f"{weight:g}: bpp / dB" for weight in study.lambdas)]
    return [Figure(plot, title), Table(columns, rows, f"{title}. BD-rate against the unrefined latents of the same model.")]


def _line(name: str, points: Points, color: int, style: str) -> Line:
    return Line(name, [bpp for bpp, _ in points], [db for _, db in points], color, style)


def _point(history: History, step: int) -> tuple[float, float]:
    place = history.at(step)
    return history.bpp[place], history.psnr[place]


def _bd(plain: Points, points: Points) -> str:
    if points is plain or len(points) < 2:
        return "-"
    return f"{bd_rate(*zip(*plain, strict=True), *zip(*points, strict=True)):+.2f} %"


def semi_multi_rate(study: Study) -> list[Block]:
    """Figure C.4: latents of a few lambdas, each refined for other lambdas; all points."""
    return _semi(study, "Figure C.4", pruned=False)


def semi_multi_rate_pruned(study: Study) -> list[Block]:
    """Figure 5.4.3: Figure C.4 without the points below the curve of unrefined latents."""
    return _semi(study, "Figure 5.4.3", pruned=True)


def _semi(study: Study, name: str, *, pruned: bool) -> list[Block]:
    starts = (
        study.lambdas
        if study.scale.rate_steps >= FULL_RATE_STEPS
        else [w for w in study.lambdas if w in STARTS] or study.lambdas
    )
    settings = study.published("ssl", steps=study.scale.rate_steps)
    plain = [_point(study.run(base, settings), 0) for base in study.lambdas]
    lines = [_line("plain", plain, 1, "-o")]
    rows = []
    for place, base in enumerate(starts):
        points = {weight: _point(study.run(base, settings, target=weight), settings.steps) for weight in TARGETS}
        above = {weight: point for weight, point in points.items() if point[1] >= _height(plain, point[0])}
        kept = above if pruned else points
        if kept:
            lines.append(_line(f"from {base:g}", list(kept.values()), (0, 2, 3, 4, 5, 1)[place % 6], "--o"))
        rows.append([f"{base:g}", *(f"{bpp:.3f} / {db:.2f}{' +' if w in above else ''}" for w, (bpp, db) in points.items())])
    caption = (
        f"{name}: {settings.steps} steps of SSL from the latents of {len(starts)} lambdas (rows) for other lambdas (columns), "
        f"bpp / dB; + marks points on or above the plain curve, which is extrapolated linearly beyond its ends."
    )
    plot = line_plot([LinePanel("bits per pixel (code length)", "PSNR (dB)", lines)])
    return [Figure(plot, name), Table(["model's lambda", *(f"{weight:g}" for weight in TARGETS)], rows, caption)]


def _height(curve: Points, bpp: float) -> float:
    """PSNR of a curve at a rate, linear in the logarithm of the rate and extrapolated beyond its ends."""
    rates, decibels = np.log([point[0] for point in curve]), np.array([point[1] for point in curve])
    x = np.log(bpp)
    if len(rates) == 1:
        return float(decibels[0])
    place = int(np.clip(np.searchsorted(rates, x), 1, len(rates) - 1))
    slope = (decibels[place] - decibels[place - 1]) / (rates[place] - rates[place - 1])
    return float(decibels[place - 1] + slope * (x - rates[place - 1]))


# ---------------------------------------------------------------------------------------------------------- images


def qualitative(study: Study) -> list[Block]:
    """Figure 5.4.4, from files: unrefined latents of lambda 0.001, and latents of 0.0025 refined to about the same rate."""
    subject = next((subject for subject in study.subjects if subject.path.stem == SHOWN), study.subjects[0])
    codec, image = study.codec, read_image(subject.path)
    lambdas = codec.lambdas
    low, high = study.lambdas[0], study.lambdas[min(1, len(study.lambdas) - 1)]
    plain = codec.compress(image, quality=quality_at(lambdas, low))
    target = 8 * len(plain) / image.pixels[..., 0].size
    towards = Refine(steps=study.scale.rate_steps, rate_weight=low / 2)
    refined = codec.compress(image, quality=quality_at(lambdas, high), refine=towards)
    shown: list[Figure] = []
    for title, blob in (
        ("Original", None),
        (f"plain, lambda {low:g}", plain),
        (f"lambda {high:g} refined for {low / 2:g}", refined),
    ):
        pixels = image.pixels if blob is None else np.asarray(codec.decompress(blob).convert("RGB"))
        caption = "" if blob is None else f"{8 * len(blob) / pixels[..., 0].size:.3f} bpp, {psnr(image.pixels, pixels):.2f} dB"
        shown.append(Figure(_detail(pixels, subject), title, caption, pixelated=True))
    caption = f"Figure 5.4.4: {subject.path.name}, files of about {target:.3f} bits per pixel."
    rows = [[figure.title, figure.caption] for figure in shown[1:]]
    return [Gallery(shown, columns=3, narrowest=220), Table(["file", "rate and PSNR"], rows, caption)]


def _detail(pixels: np.ndarray, subject: Subject) -> bytes:
    """A crop of the lower center, where the fence is."""
    height, width = pixels.shape[:2]
    side = min(DETAIL, height, width)
    top, left = min(int(height * 0.55), height - side), (width - side) // 2
    return png_bytes(pixels[top : top + side, left : left + side])


# ------------------------------------------------------------------------------------------------- rounding laws

STYLES = ("-", "--", ":")
POINTS = 1001
NAMES = {"atanh": "atanh (not normalized)", "linear": "linear", "cosine": "cosine", "ssl": "SSL, a = 4/3"}


class ProbabilityCurve(NamedTuple):
    """Probability of an integer over a range of v, relative to floor(v) with two classes, to round(v) with three."""

    name: str
    integer: int
    v: list[float]
    probability: list[float]


def two_class_curves() -> list[ProbabilityCurve]:
    """Floor and ceiling of v in [0, 1) under the laws of Fig. 5.3.1; atanh is not normalized (Eq. 5.2.3)."""
    v = torch.linspace(0, 1, POINTS, dtype=torch.float64)[:-1]
    curves = []
    for method, name in NAMES.items():
        weights = log_weights(v, RoundingLaw(method=method)).exp()  # type: ignore[arg-type]
        curves += [ProbabilityCurve(name, k, v.tolist(), weights[k].tolist()) for k in (0, 1)]
    return curves


def three_class_curves() -> list[ProbabilityCurve]:
    """round(v) - 1, round(v) and round(v) + 1 of v in [-1.5, 1.5] under the linear law (Fig. 5.3.2)."""
    v = torch.linspace(-1.5, 1.5, POINTS, dtype=torch.float64)
    curves = []
    for r, n in ((1.0, 1.0), (0.9, 1.0), (1.0, 3.0)):
        law = RoundingLaw(method="linear", classes=3, r=r, n=n)
        shares = log_weights(v, law).softmax(dim=0)
        name = f"r = {r:g}, n = {n:g}"
        curves += [ProbabilityCurve(name, k, v.tolist(), shares[k + 1].tolist()) for k in (-1, 0, 1)]
    return curves


def two_class_figure() -> bytes:
    """Figure 5.3.1 as a PNG: solid lines for the floor, dotted lines for the ceiling, one color per law."""
    names = list(NAMES.values())
    lines = [
        Line("" if curve.integer else curve.name, curve.v, curve.probability, names.index(curve.name), "-:"[curve.integer])
        for curve in two_class_curves()
    ]
    return line_plot([LinePanel("v − ⌊v⌋", "probability", lines)], title="Two-class rounding: ⌊v⌋ solid, ⌈v⌉ dotted")


def three_class_figure() -> bytes:
    """Figure 5.3.2 as a PNG: one color per integer; solid, dashed and dotted lines for the settings of (r, n)."""
    curves = three_class_curves()
    names = list(dict.fromkeys(curve.name for curve in curves))
    lines = []
    for curve in curves:
        label = f"⌊v⌉{curve.integer:+d}, {curve.name}" if curve.integer else f"⌊v⌉, {curve.name}"
        style = STYLES[names.index(curve.name)]
        lines += [Line(label, v, probability, curve.integer + 1, style) for v, probability in _pieces(curve)]
    return line_plot([LinePanel("v", "probability", lines)], title="Three-class rounding, linear")


def _pieces(curve: ProbabilityCurve) -> list[tuple[list[float], list[float]]]:
    """The parts of the curve between the steps of round(v), so that no line is drawn across a step."""
    cuts = [i for i in range(1, len(curve.v)) if round(curve.v[i]) != round(curve.v[i - 1])]
    ends = zip([0, *cuts], [*cuts, len(curve.v)], strict=True)
    return [(curve.v[a:b], curve.probability[a:b]) for a, b in ends]
