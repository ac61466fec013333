"""Tables 5.4.1 to 5.4.3 of 003 beside the thesis' own numbers, and a table of all methods with ours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from latens.codes.annealing import METHODS, THREE_CLASS_METHODS, RoundingLaw
from latens.inference.page import Block, Table
from latens.systems.image_codec.published import EARLY, LAMBDA, TABLE_5_4_1, TABLE_5_4_2, TABLE_5_4_3, TAUS
from latens.systems.image_codec.runs import History, Refinements, first_step_at, share_saved

OUR_STEPS = (60, 200, 600)  # of our schedule, in `methods`


def base_of(lab: Refinements) -> float:
    """The lambda of the tables, or the served one that is nearest to it."""
    return min(lab.lambdas, key=lambda served: abs(math.log(served / LAMBDA)))


def methods(lab: Refinements) -> list[Block]:
    """Every method: the loss early and at the end, and what it takes our schedule to get as far as atanh."""
    base = base_of(lab)
    runs = {method: lab.run(base, lab.thesis(method)) for method in METHODS}
    runs |= {f"{method}, 3 classes": lab.run(base, lab.thesis(method, 3)) for method in THREE_CLASS_METHODS}  # type: ignore[misc]
    rows = [["plain rounding", f"{runs['ssl'].true_loss[0]:.4f}", "-", "-", "0"]]
    for name, history in runs.items():
        shares = [f"{share_saved(history, step):.2f} %" for step in (EARLY, lab.scale.steps)]
        rows.append([name, _early_and_late(history), *shares, f"{history.seconds[-1]:.1f}"])
    goal = _end(runs["atanh"])
    reached = []
    for steps in [count for count in OUR_STEPS if count <= lab.scale.steps] or [lab.scale.steps]:
        history = lab.run(base, lab.ours(steps))
        saved, seconds = f"{share_saved(history, steps):.2f} %", f"{history.seconds[-1]:.1f}"
        rows.append([f"ours, {steps} steps", f"{_end(history):.4f}", "-", saved, seconds])
        first = first_step_at(history, goal)
        reached += [] if first is None else [f"step {first} of {steps} ({history.seconds[history.at(first)]:.1f} s)"]
    caption = (
        f"True loss bpp + {base:g} * 255^2 * MSE at step {EARLY} and, in brackets, at step {lab.scale.steps}; what it saves "
        f"of the loss of plain rounding; seconds a picture. Settings of the thesis but for 'ours'. The last loss of atanh, "
        f"{goal:.4f}, is reached by ours at {', '.join(reached) or 'no measured step'}."
    )
    return [Table(["method", "loss", f"saved at {EARLY}", "saved at the end", "seconds"], rows, caption)]


def temperature(lab: Refinements) -> list[Block]:
    """Table 5.4.1: true loss over the highest temperature, and how far two methods are from the best of each column."""
    base = base_of(lab)
    ours = {method: [_end(lab.run(base, lab.thesis(method, tau_max=tau))) for tau in TAUS] for method in TABLE_5_4_1}  # type: ignore[arg-type]
    plain = lab.run(base, lab.thesis("ssl")).true_loss[0]
    columns = ["function, highest temperature", *(f"{tau:g}" for tau in TAUS)]
    caption = f"lambda {base:g}, {lab.scale.steps} steps; ↓ lowest of its column. Plain rounding: {plain:.4f}."
    return [
        Table(columns, _temperature_rows(ours), f"Ours: true loss, {caption}"),
        Table(columns, _temperature_rows(TABLE_5_4_1), "The thesis (Table 5.4.1): all of Kodak, its own model."),
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


def interpolation_runs(lab: Refinements) -> dict[float, History]:
    """SSL with the shapes a of Table 5.4.2."""
    laws = {a: RoundingLaw(method="ssl", a=a) for a in TABLE_5_4_2}
    return {a: lab.run(base_of(lab), lab.thesis("ssl", law=law)) for a, law in laws.items()}


def interpolation(lab: Refinements) -> list[Block]:
    """Table 5.4.2: true loss over the shape a of SSL."""
    names = {0.65: " (about atanh)", 1.0: " (linear)", 1.6: " (about cosine)"}
    ours = {a: _end(history) for a, history in interpolation_runs(lab).items()}
    rows = [
        [f"{a:.3g}{names.get(a, '')}", _marked(ours[a], ours.values()), _marked(known, TABLE_5_4_2.values())]
        for a, known in TABLE_5_4_2.items()
    ]
    caption = f"True loss, lambda {base_of(lab):g}, {lab.scale.steps} steps; ↓ lowest."
    return [Table(["a", "ours", "thesis (Table 5.4.2)"], rows, caption)]


def three_classes(lab: Refinements) -> list[Block]:
    """Table 5.4.3: two against three classes, early and at the end."""
    rows = []
    for method in ("linear", "cosine", "ssl"):
        cells = []
        for classes in (2, 3):
            history = lab.run(base_of(lab), lab.thesis(method, classes))
            known = TABLE_5_4_3[method, classes]
            cells += [_early_and_late(history), f"{known[0]:.4f} ({known[1]:.4f})"]
        rows.append([method, *cells])
    caption = f"True loss at step {EARLY} and, in brackets, at step {lab.scale.steps}; lambda {base_of(lab):g}."
    columns = ["function", "two classes, ours", "two, thesis", "three classes, ours", "three, thesis (Table 5.4.3)"]
    return [Table(columns, rows, caption)]


def _early_and_late(history: History) -> str:
    return f"{history.true_loss[history.at(EARLY)]:.4f} ({_end(history):.4f})"


def _end(history: History) -> float:
    return history.true_loss[-1]


def _marked(loss: float, losses: Iterable[float]) -> str:
    return f"{loss:.4f}{'↓' if loss == min(losses) else ''}"
