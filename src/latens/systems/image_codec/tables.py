"""Tables 5.4.1 to 5.4.3 of Perugachi-Diaz 2024 with the published numbers, and a table of all rounding methods.

The published numbers are true rate-distortion losses on Kodak at lambda 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from latens.codes.annealing import METHODS, THREE_CLASS_METHODS, RoundingLaw
from latens.inference.page import Block, Table
from latens.systems.image_codec.runs import History, Study

OUR_STEPS = (60, 200, 600)  # lengths of the default schedule of latens in `methods`
LAMBDA = 0.01  # lambda of every table
TAUS = (0.2, 0.4, 0.6, 0.8, 1.0)  # highest temperatures of Table 5.4.1
EARLY = 500  # step of the first number of each pair in Table 5.4.3

PUBLISHED_5_4_1: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "atanh": (0.7445, 0.7408, 0.7412, 0.7416, 0.7418),
        "linear": (0.7458, 0.7406, 0.7390, 0.7386, 0.7386),
        "cosine": (0.7496, 0.7414, 0.7393, 0.7387, 0.7384),
        "ssl": (0.7578, 0.7409, 0.7391, 0.7383, 0.7380),
    }
)
PUBLISHED_5_4_2: Mapping[float, float] = MappingProxyType(
    {0.01: 1.1500, 0.3: 0.7528, 0.65: 0.7410, 0.8: 0.7396, 1.0: 0.7386, 4 / 3: 0.7380, 1.6: 0.7382, 2.25: 0.7388, 5.0: 0.7415}
)
PUBLISHED_5_4_3: Mapping[tuple[str, int], tuple[float, float]] = MappingProxyType(
    {
        ("linear", 2): (0.7552, 0.7386),
        ("linear", 3): (0.7517, 0.7380),
        ("cosine", 2): (0.7512, 0.7384),
        ("cosine", 3): (0.7513, 0.7379),
        ("ssl", 2): (0.7524, 0.7380),
        ("ssl", 3): (0.7504, 0.7380),
    }
)


def base_of(study: Study) -> float:
    """The lambda of the study that is nearest to that of the tables."""
    return min(study.lambdas, key=lambda served: abs(math.log(served / LAMBDA)))


def methods(study: Study) -> list[Block]:
    """Losses of all methods at step EARLY and at the end, and the step at which the default schedule reaches that of atanh."""
    base = base_of(study)
    runs = {method: study.run(base, study.published(method)) for method in METHODS}
    runs |= {f"{method}, 3 classes": study.run(base, study.published(method, 3)) for method in THREE_CLASS_METHODS}  # type: ignore[misc]
    rows = [["plain rounding", f"{runs['ssl'].true_loss[0]:.4f}", "-", "-", "0"]]
    for name, history in runs.items():
        shares = [f"{history.share_saved(step):.2f} %" for step in (EARLY, study.scale.steps)]
        rows.append([name, _early_and_late(history), *shares, f"{history.seconds[-1]:.1f}"])
    goal = _end(runs["atanh"])
    reached = []
    for steps in [count for count in OUR_STEPS if count <= study.scale.steps] or [study.scale.steps]:
        history = study.run(base, study.ours(steps))
        saved, seconds = f"{history.share_saved(steps):.2f} %", f"{history.seconds[-1]:.1f}"
        rows.append([f"ours, {steps} steps", f"{_end(history):.4f}", "-", saved, seconds])
        first = history.first_step_at(goal)
        reached += [] if first is None else [f"step {first} of {steps} ({history.seconds[history.at(first)]:.1f} s)"]
    caption = (
        f"True loss bpp + {base:g} * 255^2 * MSE at step {EARLY} and, in parentheses, at step {study.scale.steps}; its "
        f"decrease relative to plain rounding; seconds per image. Settings of Perugachi-Diaz 2024, except 'ours', the default "
        f"schedule of latens. It reaches the last loss of atanh, {goal:.4f}, at {', '.join(reached) or 'no measured step'}."
    )
    return [Table(["method", "loss", f"saved at {EARLY}", "saved at the end", "seconds"], rows, caption)]


def temperature(study: Study) -> list[Block]:
    """Table 5.4.1: true loss by highest temperature, and the excess of two methods over the lowest loss of each column."""
    base = base_of(study)
    ours = {method: [_end(study.run(base, study.published(method, tau_max=tau))) for tau in TAUS] for method in PUBLISHED_5_4_1}  # type: ignore[arg-type]
    plain = study.run(base, study.published("ssl")).true_loss[0]
    columns = ["function, highest temperature", *(f"{tau:g}" for tau in TAUS)]
    caption = f"lambda {base:g}, {study.scale.steps} steps; ↓ lowest of its column. Plain rounding: {plain:.4f}."
    return [
        Table(columns, _temperature_rows(ours), f"Ours: true loss, {caption}"),
        Table(columns, _temperature_rows(PUBLISHED_5_4_1), "Perugachi-Diaz 2024, Table 5.4.1: all of Kodak, its own model."),
    ]


def _temperature_rows(found: Mapping[str, Sequence[float]]) -> list[list[str]]:
    lowest = [min(column) for column in zip(*found.values(), strict=True)]
    rows = [
        [name, *(f"{loss:.4f}{'↓' if loss == low else ''}" for loss, low in zip(row, lowest, strict=True))]
        for name, row in found.items()
    ]
    for name in ("atanh", "linear"):
        rows.append([f"{name}, above the lowest", *(f"{a - b:.4f}" for a, b in zip(found[name], lowest, strict=True))])
    return rows


def interpolation_runs(study: Study) -> dict[float, History]:
    """SSL with the shapes a of Table 5.4.2."""
    laws = {a: RoundingLaw(method="ssl", a=a) for a in PUBLISHED_5_4_2}
    return {a: study.run(base_of(study), study.published("ssl", law=law)) for a, law in laws.items()}


def interpolation(study: Study) -> list[Block]:
    """Table 5.4.2: true loss by the shape a of SSL."""
    names = {0.65: " (about atanh)", 1.0: " (linear)", 1.6: " (about cosine)"}
    ours = {a: _end(history) for a, history in interpolation_runs(study).items()}
    rows = [
        [f"{a:.3g}{names.get(a, '')}", _marked(ours[a], ours.values()), _marked(known, PUBLISHED_5_4_2.values())]
        for a, known in PUBLISHED_5_4_2.items()
    ]
    caption = f"True loss, lambda {base_of(study):g}, {study.scale.steps} steps; ↓ lowest."
    return [Table(["a", "ours", "Perugachi-Diaz 2024, Table 5.4.2"], rows, caption)]


def three_classes(study: Study) -> list[Block]:
    """Table 5.4.3: two and three classes, at step EARLY and at the end."""
    rows = []
    for method in ("linear", "cosine", "ssl"):
        cells = []
        for classes in (2, 3):
            history = study.run(base_of(study), study.published(method, classes))
            known = PUBLISHED_5_4_3[method, classes]
            cells += [_early_and_late(history), f"{known[0]:.4f} ({known[1]:.4f})"]
        rows.append([method, *cells])
    caption = (
        f"True loss at step {EARLY} and, in parentheses, at step {study.scale.steps}; lambda {base_of(study):g}. "
        "Published: Perugachi-Diaz 2024, Table 5.4.3."
    )
    columns = ["function", "two classes, ours", "two, published", "three classes, ours", "three, published"]
    return [Table(columns, rows, caption)]


def _early_and_late(history: History) -> str:
    return f"{history.true_loss[history.at(EARLY)]:.4f} ({_end(history):.4f})"


def _end(history: History) -> float:
    return history.true_loss[-1]


def _marked(loss: float, losses: Iterable[float]) -> str:
    return f"{loss:.4f}{'↓' if loss == min(losses) else ''}"
