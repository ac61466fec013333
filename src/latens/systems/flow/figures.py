"""Figures 4.3.1, 4.4.1, 4.4.2, 4.5.1 and B.1 to B.4 (Perugachi-Diaz 2024)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.func import jacrev, vmap

from latens.contract import Artifact
from latens.data.image_output import png_bytes
from latens.data.labeled import open_labeled
from latens.data.source import Source
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report, seeds_of
from latens.inference.page import Block, Figure, Gallery, Table
from latens.metrics.plot import Line, LinePanel, line_plot
from latens.nn.lipschitz import Concatenation
from latens.nn.lipswish import Activation
from latens.systems.flow.config import ImageFlow
from latens.systems.flow.dataset import read_squares
from latens.systems.flow.drawing import colored, heat_map, image_grid
from latens.systems.flow.model import Flow
from latens.systems.flow.points import log_density
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.recipes import FlowTraining
from latens.systems.flow.tables import (
    DENSE_LC,
    HYBRID_SCALES,
    LAMBDAS,
    TOY_ROWS,
    hybrid_rows,
    image_report,
    of_images,
    of_points,
)
from latens.systems.flow.toy_trials import ToyScale, toy_model
from latens.systems.flow.trials import (
    FULL_GROWTH,
    ImageScale,
    dense,
    full_training,
    image_source,
    image_training,
    length,
    selected_rows,
    trained,
    training_folder,
)
from latens.systems.flow.untrained import FIXED, NoScale, report

DEPTHS: Mapping[int, int] = MappingProxyType({2: 318, 3: 178, 4: 122, 5: 92})  # depth -> growth at 8.7M parameters
GRID, SPAN = 160, 4.5  # side of a density map in points, and half its width in data units
SHOWN = 36  # number of images in a grid


def figure_4_3_1(lab: ExperimentRunner[DensityModel, NoScale]) -> Report:
    """Figure 4.3.1: normalized weights of a concatenation."""
    mix = Concatenation(1.0, learned=True)
    points = []
    for raw in np.linspace(-12, 12, 97):
        mix.eta.data.copy_(torch.tensor([raw, -raw]))
        points.append(mix().tolist())
    first, second = np.array(points).T
    circle = np.linspace(0, np.pi / 2, 100)
    lines = [
        Line("unit circle", np.cos(circle).tolist(), np.sin(circle).tolist(), 1, "--"),
        Line("reachable", first.tolist(), second.tolist(), 0, "o"),
        Line("at the start", [0.5**0.5], [0.5**0.5], 3, "s"),
    ]
    image = line_plot([LinePanel("eta_1 (input)", "eta_2 (transformed)", lines)], columns=1, title="Figure 4.3.1")
    caption = "Both weights are softplus + 0.1 before normalization, so neither reaches zero; the text states the range [0, 1]."
    return report("figure4.3.1", "Weights of a concatenation", "no training", [Figure(image, "", caption, alt="unit circle")])


def figure_b_1(lab: ExperimentRunner[DensityModel, NoScale]) -> Report:
    """Figure B.1: norm of the Jacobian of [LipSwish(x), LipSwish(-x)]."""
    phi = Activation("clipswish")
    x = torch.linspace(-8, 8, 1601)[:, None]
    norms = vmap(jacrev(lambda v: phi(v[None])[0]))(x)[..., 0].norm(dim=1).detach() * 1.004
    top = int(norms.argmax())
    lines = [
        Line("norm of the Jacobian", x[:, 0].tolist(), norms.tolist(), 0),
        Line("1.004", [-8, 8], [1.004, 1.004], 1, "--"),
        Line("maximum", [float(x[top, 0]), -float(x[top, 0])], [float(norms[top])] * 2, 3, "o"),
    ]
    image = line_plot([LinePanel("x", "norm", lines)], columns=1, title="Figure B.1")
    row = [f"{float(norms.max()):.5f}", f"{abs(float(x[top, 0])):.3f}", f"{float(norms[800]):.3f}"]
    table = Table(["maximum", "at |x|", "norm at 0"], [row], "beta = softplus(0.5)")
    return report("figureB.1", "CLipSwish before the division by 1.004", "no training", [Figure(image, alt="norm"), table])


# ---------------------------------------------------------------------------------------------------------------- toy


def density_map(density: np.ndarray) -> bytes:
    """PNG of densities on the grid, scaled by their 99.5 % quantile."""
    top = max(float(np.quantile(density, 0.995)), 1e-12)
    return png_bytes(colored(density[::-1] / top))


def grid_points() -> np.ndarray:
    axis = np.linspace(-SPAN, SPAN, GRID)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def figure_4_4_1(lab: ExperimentRunner[DensityModel, ToyScale]) -> Report:
    """Figure 4.4.1: true and learned densities of simulated points."""
    points, figures = grid_points(), []
    for name in lab.scale.names:
        truth = np.exp(log_density(name, points)).reshape(GRID, GRID)
        figures.append(Figure(density_map(truth), f"{name}: true", alt="true density", pixelated=True))
        for row in selected_rows(TOY_ROWS, lab.scale.rows):
            flow = toy_model(lab, name, row, TOY_ROWS[row], 0)
            density = np.exp(flow.log_prob(points)).reshape(GRID, GRID)
            figures.append(Figure(density_map(density), f"{name}: {row}", alt="learned density", pixelated=True))
    columns = 1 + len(selected_rows(TOY_ROWS, lab.scale.rows))
    about = f"{lab.scale.steps} steps, seed 0"
    return report("figure4.4.1", "Densities of simulated points", about, [Gallery(figures, columns)])


# ------------------------------------------------------------------------------------------------------------- images


def real_grid(lab: ExperimentRunner[DensityModel, ImageScale], sizes: ImageFlow) -> bytes:
    found = open_labeled(image_source(lab), "test").first_few(SHOWN)
    pixels, _ = read_squares(found, sizes.size, sizes.channels)
    images = [np.repeat(one, 3 // sizes.channels, axis=0).transpose(1, 2, 0) for one in pixels]
    return png_bytes(image_grid(images, columns=6, enlarge=3))


def sample_grid(flow: DensityModel) -> bytes:
    return png_bytes(image_grid(list(flow.sample(SHOWN)), columns=6, enlarge=3))


def full_row(scale: ImageScale, source: Source | None = None) -> dict[str, FlowTraining]:
    """The training of the full model that Figures 4.4.2 and B.2 sample."""
    return {DENSE_LC: full_training(scale, dense(growth=FULL_GROWTH), source)}


def figure_4_4_2(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Figure 4.4.2: real images and samples."""
    flow = trained(lab, DENSE_LC, full_row(lab.scale, image_source(lab))[DENSE_LC])
    assert isinstance(flow.config, ImageFlow)
    figures = [
        Figure(real_grid(lab, flow.config), "Real images", alt="real images", pixelated=True),
        Figure(sample_grid(flow), "Samples", alt="samples", pixelated=True),
    ]
    return image_report(lab, "figure4.4.2", "Real images and samples", [Gallery(figures, 2)])


def figure_b_2(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Figure B.2: real images, and samples at three temperatures."""
    flow = trained(lab, DENSE_LC, full_row(lab.scale, image_source(lab))[DENSE_LC])
    assert isinstance(flow.config, ImageFlow)
    figures = [Figure(real_grid(lab, flow.config), "Real images", alt="real images", pixelated=True)]
    for temperature in (1.0, 0.8, 0.6):
        images = list(flow.sample(SHOWN, temperature=temperature))
        sheet = png_bytes(image_grid(images, columns=6, enlarge=3))
        figures.append(Figure(sheet, f"Samples, latents x {temperature:g}", alt="samples", pixelated=True))
    return image_report(lab, "figureB.2", "Real images and samples", [Gallery(figures, 2)])


def shown_hybrids(scale: ImageScale, classes: int = 10) -> dict[str, FlowTraining]:
    """The trainings of the hybrids of Figure B.3, by row and lambda."""
    return hybrid_rows(replace(scale, rows=("Dense Blocks",)), LAMBDAS[1:], classes)


def figure_b_3(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Figure B.3: samples of hybrid models."""
    classes = len(open_labeled(image_source(lab), "train").classes)
    figures = []
    for name, config in shown_hybrids(lab.scale, classes).items():
        flow = trained(lab, name, config)
        title = f"lambda = {name.split()[-1]}"
        figures.append(Figure(sample_grid(flow), title, alt="samples", pixelated=True))
    return image_report(lab, "figureB.3", "Samples of hybrid models", [Gallery(figures, 2)])


def depth_rows(scale: ImageScale) -> dict[str, FlowTraining]:
    """The trainings of Figure 4.5.1."""
    return {f"depth {depth}": image_training(scale, dense(depth=depth, growth=growth)) for depth, growth in DEPTHS.items()}


def figure_4_5_1(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Figure 4.5.1: validation during training for depths 2 to 5."""
    lines, rows = [], []
    for number, (name, config) in enumerate(depth_rows(lab.scale).items()):
        folder = training_folder(lab, name.replace(" ", "-"), config)
        steps, bits = curve(folder)
        lines.append(Line(name, steps, bits, number, "-o"))
        assert isinstance(config.model, ImageFlow)
        rows.append([name.split()[1], str(getattr(config.model.block, "growth", "-")), f"{min(bits):.4f}"])
    image = line_plot([LinePanel("step", "bits/dim (validation)", lines)], columns=1, title="Figure 4.5.1")
    caption = (
        f"{seeds_of(1)} Published (8.7M parameters, 200 epochs of CIFAR-10): depth 3 best with 3.37, depth 5 last with 3.42."
    )
    table = Table(["depth", "growth", "best bits/dim"], rows, caption)
    return image_report(lab, "figure4.5.1", "Depth of the dense blocks", [Figure(image, alt="curves"), table])


def curve(folder: Path) -> tuple[list[float], list[float]]:
    """Steps and bits per dimension of the validations of a run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "validation"]
    return [record["step"] for record in records], [record["bits_per_dim"] for record in records]


def shown_weights(scale: ImageScale) -> dict[str, FlowTraining]:
    """The training of the small model of Figure B.4."""
    return {DENSE_LC: image_training(scale, dense())}


def figure_b_4(lab: ExperimentRunner[DensityModel, ImageScale]) -> Report:
    """Figure B.4: heat maps of the learned concatenation weights."""
    flow = trained(lab, DENSE_LC, shown_weights(lab.scale)[DENSE_LC])
    rows = concatenations(flow.model)
    blocks: list[Block] = [
        Table(
            ["block", "layer", "eta_1", "eta_2"],
            rows_of(rows),
            "(eta_1, eta_2) lies on the unit circle; the model multiplies both by 0.98.",
        )
    ]
    last = [pair[1] > pair[0] for _, layers in rows for pair in layers[-1:]]
    share = f"{sum(last)} of {len(last)} blocks"
    claim = Table(
        ["claim of appendix B.4", "measured"],
        [["the last dense layer gives the transformed signal more weight", share]],
        f"After {length(lab.scale)} from equal weights of {0.5**0.5:.3f}. {seeds_of(1)}",
    )
    names = [short(name) for name, _ in rows]
    for index, title in ((0, "eta_1: input"), (1, "eta_2: transformed signal")):
        values = np.array([[pair[index] for pair in layers] for _, layers in rows])
        sheet = png_bytes(heat_map(values.T, "abcdefgh"[: values.shape[1]], names))
        caption = "Columns are blocks (scale.block; FC: fully connected), rows the dense layers of a block."
        blocks.insert(index, Figure(sheet, title, caption, alt=title))
    return image_report(lab, "figureB.4", "Learned weights of the concatenations", [*blocks, claim])


@torch.no_grad()
def concatenations(flow: Flow) -> list[tuple[str, list[list[float]]]]:
    """(eta_1, eta_2) of every dense layer, without the factor 0.98, by block name."""
    found = []
    for name, step in zip(flow.names, flow.steps, strict=True):
        branch = getattr(step, "branch", None)
        mixes = [stage.mix for stage in branch.ordered if stage.mix is not None] if branch is not None else []
        if mixes:
            found.append((name, [(mix() / mix.factor).tolist() for mix in mixes]))
    return found


def short(name: str) -> str:
    """Short name of a block: 1.2 for "scale 1, block 2", FC.1 for "tail, block 1"."""
    place, block = name.replace("tail", "FC").removeprefix("scale ").split(", block ")
    return f"{place}.{block}"


def rows_of(found: list[tuple[str, list[list[float]]]]) -> list[list[str]]:
    return [
        [name, "abcdefgh"[number], f"{pair[0]:.3f}", f"{pair[1]:.3f}"]
        for name, layers in found
        for number, pair in enumerate(layers)
    ]


FIGURES: Mapping[str, Artifact[DensityModel, Any]] = MappingProxyType(
    {
        "figure4.3.1": Artifact(make=figure_4_3_1, scales=FIXED),
        "figure4.4.1": of_points(figure_4_4_1, TOY_ROWS),
        "figure4.4.2": of_images(figure_4_4_2, full_row),
        "figure4.5.1": of_images(figure_4_5_1, depth_rows),
        "figureB.1": Artifact(make=figure_b_1, scales=FIXED),
        "figureB.2": of_images(figure_b_2, full_row),
        "figureB.3": of_images(figure_b_3, shown_hybrids, HYBRID_SCALES),
        "figureB.4": of_images(figure_b_4, shown_weights),
    }
)
