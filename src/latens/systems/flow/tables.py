"""Tables 4.4.2 to 4.4.5, 4.5.2 and B.4 (Perugachi-Diaz 2024) with the published numbers. Their rows are trained models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np

from latens.contract import Artifact
from latens.data.labeled import open_labeled
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report, paired, seeds_of, spread
from latens.inference.page import Block, Table
from latens.systems.flow.config import (
    Blocks,
    DenseBlocks,
    ImageFlow,
    ResidualBlocks,
    WideBlocks,
)
from latens.systems.flow.original import published_for
from latens.systems.flow.points import ENTROPY
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.recipes import FlowTraining
from latens.systems.flow.toy_trials import ToyScale, toy_excess, toy_model, toy_trainings
from latens.systems.flow.trials import (
    COUPLINGS,
    FULL_GROWTH,
    SMALL_STEPS,
    ImageScale,
    dense,
    density_table,
    full_training,
    hybrid_training,
    image_source,
    image_training,
    length,
    measured_bits,
    parameters,
    planned,
    residual,
    selected_rows,
    trained,
)
from latens.systems.flow.untrained import ACTIVATIONS, UNTRAINED, report

DENSE, DENSE_LC, RESIDUAL = "i-DenseNet", "i-DenseNet+LC", "Residual Flow"


# ---------------------------------------------------------------------------------------------------------------- toy

TOY_PUBLISHED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        RESIDUAL: {"circles": "3.44", "checkerboard": "3.81", "moons": "2.60"},
        DENSE: {"circles": "3.32", "checkerboard": "3.68", "moons": "2.39"},
        DENSE_LC: {"circles": "3.30", "checkerboard": "3.66", "moons": "2.39"},
        "+ extended width, equal depth": {"circles": "3.36", "checkerboard": "3.78", "moons": "2.52"},
    }
)
TOY_ROWS: Mapping[str, Blocks] = MappingProxyType(
    {
        RESIDUAL: ResidualBlocks(width=128),
        DENSE: dense("lipswish", learned=False, growth=16),
        DENSE_LC: dense("lipswish", growth=16),
    }
)
B4_ROWS: Mapping[str, Blocks] = MappingProxyType(
    {
        RESIDUAL: ResidualBlocks(width=128),
        "+ extended width, equal depth": WideBlocks(growth=16),
        DENSE_LC: dense("lipswish", growth=16),
    }
)


def toy_tables(lab: ExperimentRunner[DensityModel, ToyScale], rows: Mapping[str, Blocks], caption: str) -> list[Block]:
    """Negative log-likelihood of every row and distribution, its excess over the entropy, and differences of the rows."""
    table = []
    excesses: dict[str, list[list[float]]] = {}  # by row: distribution, seed
    for row in selected_rows(rows, lab.scale.rows):
        cells = []
        flow = None
        for name in lab.scale.names:
            found = []
            for seed in range(lab.scale.seeds):
                flow = toy_model(lab, name, row, rows[row], seed)
                found.append(toy_excess(lab, flow, name, seed))
            nats, excess = [one[0] for one in found], [one[1] for one in found]
            excesses.setdefault(row, []).append(excess)
            cells += [spread(nats, ".3f"), spread(excess, ".3f"), TOY_PUBLISHED[row][name]]
        assert flow is not None
        table.append([row, str(parameters(flow.config)), *cells])
    floor = [cell for name in lab.scale.names for cell in (f"{ENTROPY[name]:.4f}", "0", "-")]
    table.append(["true density", "-", *floor])
    columns = ["model", "parameters", *(f"{n} {m}" for n in lab.scale.names for m in ("nats", "excess", "published"))]
    scale = lab.scale
    about = f"{scale.points:,} fresh points, {scale.steps} steps, {scale.seeds} seeds; the true density is the lower bound. "
    return [Table(columns, table, about + caption), *toy_differences(excesses, scale)]


def toy_differences(excesses: Mapping[str, Sequence[Sequence[float]]], scale: ToyScale) -> list[Block]:
    """Differences of the excess of every two rows, paired by seed; nothing for one row."""
    pairs = list(combinations(excesses, 2))
    if not pairs:
        return []
    rows = [
        [f"{b} - {a}", *(paired(excesses[b][at], excesses[a][at], "+.3f") for at in range(len(scale.names)))] for a, b in pairs
    ]
    caption = f"Excess in nats, paired by seed; both rows are tested on the same points. {seeds_of(scale.seeds)}"
    return [Table(["difference", *scale.names], rows, caption)]


def table_4_4_2(lab: ExperimentRunner[DensityModel, ToyScale]) -> Report:
    """Table 4.4.2: simulated points."""
    tables = toy_tables(lab, TOY_ROWS, "Published: best of 500 evaluations on 10,000 points each.")
    return report("table4.4.2", "Negative log-likelihood of simulated points", "fresh points at every step", tables)


# ------------------------------------------------------------------------------------------------------------- images


def image_report(lab: ExperimentRunner[DensityModel, ImageScale], name: str, title: str, blocks: Sequence[Block]) -> Report:
    about = f"Images of {image_source(lab).path.name}, models of the scale {lab.scale.size}"
    return report(name, title, about, blocks)


CIFAR_ONLY = (
    "Published: original CIFAR-10, 50,000 training images, 8.7M parameters, 200 epochs; shown only for images of the "
    "original CIFAR-10."
)


def concatenation_rows(scale: ImageScale) -> dict[str, FlowTraining]:
    """The rows of Table 4.4.3."""
    return {
        RESIDUAL: image_training(scale, residual()),
        DENSE: image_training(scale, dense("lipswish", learned=False, growth=124)),
        DENSE_LC: image_training(scale, dense("lipswish", growth=124)),
    }


def table_4_4_3(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Table 4.4.3: small models with and without learnable concatenation, LipSwish."""
    rows = concatenation_rows(lab.scale)
    published = {RESIDUAL: "3.42", DENSE: "3.41", DENSE_LC: "3.39"}
    return image_report(
        lab, "table4.4.3", "Density of small models", [density_table(lab, rows, published, RESIDUAL, CIFAR_ONLY)]
    )


BUDGET = 0.98  # certified Lipschitz bound to which the last layer scales a block


def density_rows(scale: ImageScale, source: Source | None = None) -> dict[str, FlowTraining]:
    """The rows of Table 4.4.4; at paper scale also the full models."""
    rows = {
        RESIDUAL: image_training(scale, residual()),
        DENSE_LC: image_training(scale, dense()),
        "+ whole Lipschitz budget (ours)": image_training(scale, replace(dense(), budget=BUDGET)),
        "+ whitening (ours)": whitened(image_training(scale, dense())),
    }
    if scale.size == "paper":
        rows |= {f"{RESIDUAL}, full": full_training(scale, residual(), source)}
        rows |= {f"{DENSE_LC}, full": full_training(scale, dense(growth=FULL_GROWTH), source)}
    return rows


def table_4_4_4(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Table 4.4.4: density estimation."""
    rows = density_rows(lab.scale, image_source(lab))
    published = {RESIDUAL: "3.42 (full: 3.28)", DENSE_LC: "3.37 (full: 3.25)"}
    published |= {f"{RESIDUAL}, full": "3.28", f"{DENSE_LC}, full": "3.25"}
    others = [["Real NVP", "3.49", "4.28"], ["FFJORD", "3.40", "-"], ["Flow++", "3.29", "-"], ["ConvSNF", "3.29", "-"]]
    others += [["i-ResNet", "3.45", "-"], [RESIDUAL, "3.28", "4.01"], [DENSE, "3.25", "3.98"]]
    published_table = Table(["published, full models", "CIFAR10", "ImageNet32"], others, "Uniform dequantization, bits/dim.")
    ours = density_table(lab, rows, published, RESIDUAL, CIFAR_ONLY)
    return image_report(lab, "table4.4.4", "Density estimation", [ours, published_table])


def whitened(config: FlowTraining) -> FlowTraining:
    assert isinstance(config.model, ImageFlow)
    return replace(config, model=replace(config.model, whiten=True))


HYBRID_PUBLISHED = {
    "coupling": "89.77 | 87.58 @ 4.30 | 67.62 @ 3.54",
    "coupling + 1x1 conv": "90.82 | 87.96 @ 4.09 | 67.38 @ 3.47",
    "Residual Blocks": "91.78 | 90.47 @ 3.62 | 70.32 @ 3.39",
    "Dense Blocks": "92.40 | 90.79 @ 3.49 | 75.67 @ 3.31",
}
Weight: TypeAlias = float | Literal["1/D"]
LAMBDAS: tuple[Weight, ...] = (0.0, "1/D", 1.0)
HYBRIDS: Mapping[str, Blocks] = MappingProxyType(
    {**COUPLINGS, "Residual Blocks": residual(), "Dense Blocks": dense(growth=FULL_GROWTH)}
)


def hybrid_rows(scale: ImageScale, weights: Sequence[Weight] = LAMBDAS, classes: int = 10) -> dict[str, FlowTraining]:
    """The training of every cell of Table 4.4.5, by row and lambda."""
    chosen = selected_rows(HYBRIDS, scale.rows)
    return {f"{name} {one}": hybrid_training(scale, HYBRIDS[name], one, classes) for name in chosen for one in weights}


def table_4_4_5(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Table 4.4.5: hybrid models."""
    classes = len(open_labeled(image_source(lab), "train").classes)
    if classes < 2:
        raise UsageError("hybrid models need labeled images", where="--data", hint="give one folder of images for every class")
    cells_of = hybrid_rows(lab.scale, classes=classes)
    published = published_for(image_source(lab), HYBRID_PUBLISHED)
    table = []
    for name in selected_rows(HYBRIDS, lab.scale.rows):
        cells = []
        for weight in LAMBDAS:
            found = measured_bits(lab, trained(lab, f"{name} {weight}", cells_of[f"{name} {weight}"]))
            bits = "-" if weight == 0 else f"{np.mean(found['bits']):.3f}"
            cells += [f"{100 * found['accuracy']:.2f}", bits]
        table.append([name, *cells, published.get(name, "-")])
    columns = ["model", *(f"lambda {w}: {m}" for w in ("0", "1/D", "1") for m in ("accuracy %", "bits/dim")), "published"]
    caption = (
        f"{length(lab.scale)} per cell, at most {lab.scale.images} test images. {seeds_of(1)} "
        "Published: 400 epochs, accuracy | accuracy @ bits/dim | accuracy @ bits/dim."
    )
    return image_report(lab, "table4.4.5", "Hybrid modeling", [Table(columns, table, caption)])


def activation_rows(scale: ImageScale) -> tuple[dict[str, FlowTraining], dict[str, str]]:
    rows, published = {}, {}
    for name, (growth, width, of_dense, of_residual) in ACTIVATIONS.items():
        rows[f"{RESIDUAL} {name}"] = image_training(scale, residual(name, width))
        rows[f"{DENSE_LC} {name}"] = image_training(scale, dense(name, growth=growth))
        published[f"{RESIDUAL} {name}"], published[f"{DENSE_LC} {name}"] = of_residual, of_dense
    return rows, published


def table_4_5_2(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Table 4.5.2: activations."""
    rows, published = activation_rows(lab.scale)
    table = density_table(lab, rows, published, f"{RESIDUAL} lipswish", CIFAR_ONLY)
    return image_report(lab, "table4.5.2", "Activations of small models", [table])


def matching_rows(scale: ImageScale) -> dict[str, FlowTraining]:
    """The rows of Table B.4."""
    dense_row = image_training(scale, dense("lipswish", growth=124))
    assert isinstance(dense_row.model, ImageFlow)
    assert isinstance(dense_row.model.block, DenseBlocks)
    wide = WideBlocks(growth=dense_row.model.block.growth, depth=dense_row.model.block.depth)
    return {
        RESIDUAL: image_training(scale, residual()),
        "+ extended width, equal depth": replace(dense_row, model=replace(dense_row.model, block=wide)),
        DENSE_LC: dense_row,
    }


def table_b_4(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Table B.4: a Residual Flow with the widths of the dense blocks, and therefore more parameters."""
    rows = matching_rows(lab.scale)
    published = {RESIDUAL: "3.42", "+ extended width, equal depth": "7.02", DENSE_LC: "3.39"}
    table = density_table(lab, rows, published, RESIDUAL, CIFAR_ONLY + " Simulated points: tableB.4-toy.")
    return image_report(lab, "tableB.4", "Matching architectures", [table])


def table_b_4_toy(lab: ExperimentRunner[DensityModel, ToyScale]) -> Report:
    """Columns of Table B.4 on simulated points."""
    return report("tableB.4-toy", "Matching architectures, simulated points", "fresh points", toy_tables(lab, B4_ROWS, ""))


# ------------------------------------------------------------------------------------------------------------- scales


IMAGE_SCALES = {
    "tiny": ImageScale(size="tiny", steps=2, images=6),
    "cpu": ImageScale(),
    "paper": ImageScale(size="paper", steps=SMALL_STEPS, images=10_000),
}
HYBRID_SCALES = {**IMAGE_SCALES, "paper": replace(IMAGE_SCALES["paper"], steps=312_500)}  # 400 epochs
TOY_SCALES = {
    "tiny": ToyScale(steps=3, points=50, blocks=2, names=("moons",)),
    "cpu": ToyScale(),
    "paper": ToyScale(steps=50_000, seeds=3),
}
TINY_HYBRIDS = replace(IMAGE_SCALES["tiny"], rows=("coupling", "Dense Blocks"))


def of_images(
    make: Callable[[ExperimentRunner[DensityModel, ImageScale]], Report],
    rows: Callable[[ImageScale], Mapping[str, FlowTraining]],
    scales: Mapping[str, ImageScale] = IMAGE_SCALES,
) -> Artifact[DensityModel, ImageScale]:
    """A table or figure of models that are trained on images."""
    return Artifact(make, scales, lambda scale: planned(scale, rows(scale)))


def of_points(
    make: Callable[[ExperimentRunner[DensityModel, ToyScale]], Report], rows: Mapping[str, Blocks]
) -> Artifact[DensityModel, ToyScale]:
    """A table or figure of models that are trained on simulated points."""
    return Artifact(make, TOY_SCALES, partial(toy_trainings, rows=rows))


TABLES: Mapping[str, Artifact[DensityModel, Any]] = MappingProxyType(
    {
        **UNTRAINED,
        "table4.4.2": of_points(table_4_4_2, TOY_ROWS),
        "table4.4.3": of_images(table_4_4_3, concatenation_rows),
        "table4.4.4": of_images(table_4_4_4, density_rows),
        "table4.4.5": of_images(table_4_4_5, hybrid_rows, {**HYBRID_SCALES, "tiny": TINY_HYBRIDS}),
        "table4.5.2": of_images(table_4_5_2, lambda scale: activation_rows(scale)[0]),
        "tableB.4": of_images(table_b_4, matching_rows),
        "tableB.4-toy": of_points(table_b_4_toy, B4_ROWS),
    }
)
