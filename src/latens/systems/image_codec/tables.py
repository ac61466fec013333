"""Tables 5.4.1 to 5.4.3 of Perugachi-Diaz 2024 with the published numbers, and a table of all rounding methods.

The published numbers are true rate-distortion losses on Kodak at lambda 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import mean
from types import MappingProxyType

from latens.codes.annealing import METHODS, SSL_SHAPE, THREE_CLASS_METHODS, RoundingLaw
from latens.experiments.report import paired, seeds_of, spread
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
    runs = {method: study.runs(base, study.published(method)) for method in METHODS}
    runs |= {f"{method}, 3 classes": study.runs(base, study.published(method, 3)) for method in THREE_CLASS_METHODS}  # type: ignore[misc]
    rows = [["plain rounding", f"{runs['ssl'][0].true_loss[0]:.4f}", "-", "-", "-", "0"]]
    for name, histories in runs.items():
        shares = [f"{spread([one.share_saved(step) for one in histories])} %" for step in (EARLY, study.scale.steps)]
        difference = "-" if name == "ssl" else paired(_ends(histories), _ends(runs["ssl"]), "+.4f")
        rows.append([name, _early_and_late(histories), *shares, difference, f"{histories[0].seconds[-1]:.1f}"])
    goal = _ends(runs["atanh"])[0]
    reached = []
    for steps in [count for count in OUR_STEPS if count <= study.scale.steps] or [study.scale.steps]:
        ours = study.runs(base, study.ours(steps))
        saved, seconds = f"{spread([one.share_saved(steps) for one in ours])} %", f"{ours[0].seconds[-1]:.1f}"
        difference = paired(_ends(ours), _ends(runs["ssl"]), "+.4f")
        rows.append([f"ours, {steps} steps", spread(_ends(ours), ".4f"), "-", saved, difference, seconds])
        first = ours[0].first_step_at(goal)
        reached += [] if first is None else [f"step {first} of {steps} ({ours[0].seconds[ours[0].at(first)]:.1f} s)"]
    caption = (
        f"True loss bpp + {base:g} * 255^2 * MSE {_when(study)}; its decrease relative to plain rounding; its difference from "
        f"ssl at the end, paired by seed; seconds per image. Settings of Perugachi-Diaz 2024, except 'ours', the default "
        f"schedule of latens. With the first seed it reaches the last loss of atanh, {goal:.4f}, at "
        f"{', '.join(reached) or 'no measured step'}. {seeds_of(study.scale.seeds)}"
    )
    return [Table(["method", "loss", f"saved at {EARLY}", "saved at the end", "minus ssl", "seconds"], rows, caption)]


def temperature(study: Study) -> list[Block]:
    """Table 5.4.1: true loss by highest temperature, and the excess of two methods over the lowest loss of each column."""
    base = base_of(study)
    ours = {
        method: [_ends(study.runs(base, study.published(method, tau_max=tau))) for tau in TAUS]  # type: ignore[arg-type]
        for method in PUBLISHED_5_4_1
    }
    known = {method: [[loss] for loss in losses] for method, losses in PUBLISHED_5_4_1.items()}
    plain = study.run(base, study.published("ssl")).true_loss[0]
    columns = ["function, highest temperature", *(f"{tau:g}" for tau in TAUS)]
    caption = (
        f"lambda {base:g}, {study.scale.steps} steps; ↓ lowest of its column; excess paired by seed. Plain rounding: "
        f"{plain:.4f}. {seeds_of(study.scale.seeds)}"
    )
    return [
        Table(columns, _temperature_rows(ours), f"Ours: true loss, {caption}"),
        Table(columns, _temperature_rows(known), "Perugachi-Diaz 2024, Table 5.4.1: all of Kodak, its own model."),
    ]


def _temperature_rows(found: Mapping[str, Sequence[Sequence[float]]]) -> list[list[str]]:
    """Rows of losses by method, temperature and seed."""
    lowest = [min(column, key=mean) for column in zip(*found.values(), strict=True)]
    rows = [[name, *(_marked(losses, [low]) for losses, low in zip(row, lowest, strict=True))] for name, row in found.items()]
    for name in ("atanh", "linear"):
        excess = [paired(losses, low, ".4f") for losses, low in zip(found[name], lowest, strict=True)]
        rows.append([f"{name}, above the lowest", *excess])
    return rows


def interpolation_runs(study: Study) -> dict[float, list[History]]:
    """SSL with the shapes a of Table 5.4.2, a run for every seed."""
    laws = {a: RoundingLaw(method="ssl", a=a) for a in PUBLISHED_5_4_2}
    return {a: study.runs(base_of(study), study.published("ssl", law=law)) for a, law in laws.items()}


def interpolation(study: Study) -> list[Block]:
    """Table 5.4.2: true loss by the shape a of SSL."""
    names = {0.65: " (about atanh)", 1.0: " (linear)", 1.6: " (about cosine)"}
    ours = {a: _ends(histories) for a, histories in interpolation_runs(study).items()}
    published = {a: [loss] for a, loss in PUBLISHED_5_4_2.items()}
    rows = []
    for a, losses in ours.items():
        difference = "-" if a == SSL_SHAPE else paired(losses, ours[SSL_SHAPE], "+.4f")
        cells = [_marked(losses, ours.values()), difference, _marked(published[a], published.values())]
        rows.append([f"{a:.3g}{names.get(a, '')}", *cells])
    caption = (
        f"True loss, lambda {base_of(study):g}, {study.scale.steps} steps; ↓ lowest; differences from a = {SSL_SHAPE:.3g} "
        f"paired by seed. {seeds_of(study.scale.seeds)}"
    )
    return [Table(["a", "ours", f"minus a = {SSL_SHAPE:.3g}", "Perugachi-Diaz 2024, Table 5.4.2"], rows, caption)]


def three_classes(study: Study) -> list[Block]:
    """Table 5.4.3: two and three classes, at step EARLY and at the end, and their differences."""
    base = base_of(study)
    found = {key: study.runs(base, study.published(*key)) for key in PUBLISHED_5_4_3}  # type: ignore[arg-type]
    names = list(dict.fromkeys(method for method, _ in found))
    rows = []
    for method in names:
        cells = []
        for classes in (2, 3):
            known = PUBLISHED_5_4_3[method, classes]
            cells += [_early_and_late(found[method, classes]), f"{known[0]:.4f} ({known[1]:.4f})"]
        rows.append([method, *cells])
    caption = f"True loss {_when(study)}; lambda {base:g}. Published: Perugachi-Diaz 2024, Table 5.4.3."
    columns = ["function", "two classes, ours", "two, published", "three classes, ours", "three, published"]
    return [Table(columns, rows, caption), _class_differences(study, found, names)]


def _class_differences(study: Study, found: Mapping[tuple[str, int], Sequence[History]], names: Sequence[str]) -> Table:
    """Differences of every two functions with the same classes, and of the classes of a function."""
    pairs = {f"{b} - {a}, {n} classes": ((b, n), (a, n)) for n in (2, 3) for a, b in combinations(names, 2)}
    pairs |= {f"3 - 2 classes, {name}": ((name, 3), (name, 2)) for name in names}
    steps = sorted({min(EARLY, study.scale.steps), study.scale.steps})
    rows = [
        [name, *(paired(_at(found[first], step), _at(found[second], step), "+.4f") for step in steps)]
        for name, (first, second) in pairs.items()
    ]
    caption = f"Differences of the true loss, paired by seed. {seeds_of(study.scale.seeds)}"
    return Table(["difference", *(f"step {step}" for step in steps)], rows, caption)


def _when(study: Study) -> str:
    """The steps of the numbers of `_early_and_late`."""
    last = study.scale.steps
    return f"at step {last}" if last <= EARLY else f"at step {EARLY} and, in parentheses, at step {last}"


def _early_and_late(histories: Sequence[History]) -> str:
    late = spread(_ends(histories), ".4f")
    return late if histories[0].steps[-1] <= EARLY else f"{spread(_at(histories, EARLY), '.4f')} ({late})"


def _at(histories: Sequence[History], step: int) -> list[float]:
    return [history.true_loss[history.at(step)] for history in histories]


def _ends(histories: Sequence[History]) -> list[float]:
    return [history.true_loss[-1] for history in histories]


def _marked(losses: Sequence[float], others: Iterable[Sequence[float]]) -> str:
    """Losses by seed, with a mark if their mean is the lowest."""
    return f"{spread(losses, '.4f')}{'↓' if mean(losses) <= min(map(mean, others)) else ''}"
