"""Figures 5.4.1 to 5.4.4 and C.1 to C.4 of 003: loss along the steps, and rate against distortion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from latens.codes.annealing import Method, Refine
from latens.codes.gains import quality_at
from latens.data.images import read_picture
from latens.data.tensors import png_bytes
from latens.inference.page import Block, Figure, Gallery, Table
from latens.metrics.image import psnr
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.metrics.rate import bd_rate
from latens.systems.image_codec.published import EARLY, TARGETS
from latens.systems.image_codec.runs import History, Refinements, Subject
from latens.systems.image_codec.tables import base_of, interpolation_runs

Points = Sequence[tuple[float, float]]  # bpp, dB
BASELINES: tuple[Method, ...] = ("ste", "uniform", "atanh", "ssl")
STARTS = (0.0025, 0.01, 0.04)  # of the semi-multi-rate figures at less than full scale: three models for the whole range
SHOWN = "kodim19"  # the lighthouse behind the fence of Figure 5.4.4, where the folder has it
FULL_RATE_STEPS = 2000
DETAIL = 224  # pixels a side


def overall(lab: Refinements) -> list[Block]:
    """Figure 5.4.1: STE, uniform noise, atanh and SSL along the steps."""
    runs: dict[str, History] = {method: lab.run(base_of(lab), lab.thesis(method)) for method in BASELINES}
    return [Figure(along_the_steps(runs, robust=False), "Figure 5.4.1: true loss, its gap to the relaxed loss, PSNR and rate")]


def interpolation(lab: Refinements) -> list[Block]:
    """Figure C.1: SSL with shapes a from 0.01 to 5."""
    runs = {f"a = {a:.3g}": history for a, history in interpolation_runs(lab).items()}
    title = "Figure C.1: SSL with other shapes; the axes leave out what diverges"
    return [Figure(along_the_steps(runs, robust=True), title)]


def along_the_steps(runs: Mapping[str, History], *, robust: bool) -> bytes:
    """Four panels as in Figure 5.4.1; `robust` cuts the axes to three quarters of the runs."""
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


def rate_early(lab: Refinements) -> list[Block]:
    """Figure 5.4.2, on the folder that is given: the plain code, atanh and SSL after 500 steps."""
    return _rate(lab, ("atanh", "ssl"), EARLY, "Figure 5.4.2")


def rate_late(lab: Refinements) -> list[Block]:
    """Figure C.3, on the folder that is given: the plain code, atanh and SSL after all steps."""
    return _rate(lab, ("atanh", "ssl"), lab.scale.rate_steps, "Figure C.3")


def rate(lab: Refinements) -> list[Block]:
    """Figure C.2: all baselines after 500 and after all steps."""
    steps = sorted({min(EARLY, lab.scale.rate_steps), lab.scale.rate_steps})
    return [block for count in steps for block in _rate(lab, BASELINES, count, "Figure C.2")]


def _rate(lab: Refinements, methods: Sequence[Method], step: int, name: str) -> list[Block]:
    found: dict[str, Points] = {}
    for method in methods:
        histories = [lab.run(base, lab.thesis(method, steps=lab.scale.rate_steps)) for base in lab.lambdas]
        found["plain"] = [_point(history, 0) for history in histories]
        found[method] = [_point(history, step) for history in histories]
    title = f"{name}: after {min(step, lab.scale.rate_steps)} steps, lambda {', '.join(f'{w:g}' for w in lab.lambdas)}"
    lines = [_line(curve, points, place, "-o") for place, (curve, points) in enumerate(found.items())]
    plot = line_plot([LinePanel("bits per pixel (code length)", "PSNR (dB)", lines)])
    rows = [
        [curve, _bd(found["plain"], points), *(f"{bpp:.4f} / {db:.2f}" for bpp, db in points)]
        for curve, points in found.items()
    ]
    columns = ["", "BD-rate", *(f"{weight:g}: bpp / dB" for weight in lab.lambdas)]
    return [Figure(plot, title), Table(columns, rows, f"{title}. BD-rate against the plain code of the same model.")]


def _line(name: str, points: Points, colour: int, style: str) -> Line:
    return Line(name, [bpp for bpp, _ in points], [db for _, db in points], colour, style)


def _point(history: History, step: int) -> tuple[float, float]:
    place = history.at(step)
    return history.bpp[place], history.psnr[place]


def _bd(plain: Points, points: Points) -> str:
    if points is plain or len(points) < 2:
        return "-"
    return f"{bd_rate(*zip(*plain, strict=True), *zip(*points, strict=True)):+.2f} %"


def semi_multi_rate(lab: Refinements) -> list[Block]:
    """Figure C.4: latents of few models refined towards other lambdas, every point."""
    return _semi(lab, "Figure C.4", pruned=False)


def semi_multi_rate_pruned(lab: Refinements) -> list[Block]:
    """Figure 5.4.3: the same without the points that fall below the plain curve."""
    return _semi(lab, "Figure 5.4.3", pruned=True)


def _semi(lab: Refinements, name: str, *, pruned: bool) -> list[Block]:
    starts = lab.lambdas if lab.scale.rate_steps >= FULL_RATE_STEPS else [w for w in lab.lambdas if w in STARTS] or lab.lambdas
    settings = lab.thesis("ssl", steps=lab.scale.rate_steps)
    plain = [_point(lab.run(base, settings), 0) for base in lab.lambdas]
    lines = [_line("plain", plain, 1, "-o")]
    rows = []
    for place, base in enumerate(starts):
        points = {weight: _point(lab.run(base, settings, target=weight), settings.steps) for weight in TARGETS}
        above = {weight: point for weight, point in points.items() if point[1] >= _height(plain, point[0])}
        kept = above if pruned else points
        if kept:
            lines.append(_line(f"from {base:g}", list(kept.values()), (0, 2, 3, 4, 5, 1)[place % 6], "--o"))
        rows.append([f"{base:g}", *(f"{bpp:.3f} / {db:.2f}{' +' if w in above else ''}" for w, (bpp, db) in points.items())])
    caption = (
        f"{name}: {settings.steps} steps of SSL from the codes of {len(starts)} lambdas (rows) towards others (columns), "
        f"bpp / dB; + on or above the plain curve, which is continued straight beyond its ends."
    )
    plot = line_plot([LinePanel("bits per pixel (code length)", "PSNR (dB)", lines)])
    return [Figure(plot, name), Table(["model's lambda", *(f"{weight:g}" for weight in TARGETS)], rows, caption)]


def _height(curve: Points, bpp: float) -> float:
    """PSNR of the plain curve at a rate, over the logarithm of the rate; continued straight beyond its ends."""
    rates, decibels = np.log([point[0] for point in curve]), np.array([point[1] for point in curve])
    x = np.log(bpp)
    if len(rates) == 1:
        return float(decibels[0])
    place = int(np.clip(np.searchsorted(rates, x), 1, len(rates) - 1))
    slope = (decibels[place] - decibels[place - 1]) / (rates[place] - rates[place - 1])
    return float(decibels[place - 1] + slope * (x - rates[place - 1]))


# ---------------------------------------------------------------------------------------------------------- pictures


def qualitative(lab: Refinements) -> list[Block]:
    """Figure 5.4.4: from real files, the plain code at 0.001 and that of 0.0025 refined towards the same rate."""
    subject = next((subject for subject in lab.subjects if subject.path.stem == SHOWN), lab.subjects[0])
    codec, picture = lab.codec, read_picture(subject.path)
    low, high = lab.lambdas[0], lab.lambdas[min(1, len(lab.lambdas) - 1)]
    plain = codec.compress(picture, quality=quality_at(codec.lambdas, low))
    target = 8 * len(plain) / picture.pixels[..., 0].size
    refined = codec.compress(
        picture, quality=quality_at(codec.lambdas, high), refine=Refine(steps=lab.scale.rate_steps, rate_weight=low / 2)
    )
    shown: list[Figure] = []
    for title, blob in (
        ("Original", None),
        (f"plain, lambda {low:g}", plain),
        (f"lambda {high:g} refined towards {low / 2:g}", refined),
    ):
        pixels = picture.pixels if blob is None else np.asarray(codec.decompress(blob).convert("RGB"))
        caption = (
            "" if blob is None else f"{8 * len(blob) / pixels[..., 0].size:.3f} bpp, {psnr(picture.pixels, pixels):.2f} dB"
        )
        shown.append(Figure(_detail(pixels, subject), title, caption, pixelated=True))
    caption = f"Figure 5.4.4: {subject.path.name}, real files of about {target:.3f} bits per pixel."
    rows = [[figure.title, figure.caption] for figure in shown[1:]]
    return [Gallery(shown, columns=3, narrowest=220), Table(["file", "rate and PSNR"], rows, caption)]


def _detail(pixels: np.ndarray, subject: Subject) -> bytes:
    """A part of the lower middle, where the fence is."""
    height, width = pixels.shape[:2]
    side = min(DETAIL, height, width)
    top, left = min(int(height * 0.55), height - side), (width - side) // 2
    return png_bytes(pixels[top : top + side, left : left + side])
