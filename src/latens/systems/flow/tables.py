"""Tables 4.4.1 to 4.5.2 and B.1 to B.4 of 003, their numbers beside ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch

from latens.codes.logdet import Series
from latens.contract import Artifact
from latens.data.labeled import open_labeled
from latens.errors import UsageError
from latens.experiments.lab import Lab
from latens.experiments.report import Report, spread
from latens.inference.page import Block, Table
from latens.nn.lipswish import Activation
from latens.settings import Count, Natural, settings
from latens.systems.flow.config import (
    ActivationChoice,
    Blocks,
    DenseBlocks,
    FlowConfig,
    ImageFlow,
    ResidualBlocks,
    VectorFlow,
    WideBlocks,
)
from latens.systems.flow.model import Flow
from latens.systems.flow.points import ENTROPY
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.recipes import FlowTraining
from latens.systems.flow.trials import (
    COUPLINGS,
    ImageScale,
    ToyScale,
    asked,
    dense,
    density_table,
    hybrid_training,
    image_source,
    image_training,
    measured_bits,
    parameters,
    residual,
    toy_excess,
    toy_model,
    trained,
)

DENSE, DENSE_LC, RESIDUAL = "i-DenseNet", "i-DenseNet+LC", "Residual Flow"


@settings
class ActivationScale:
    """Random points of the tables of signal preservation."""

    points: Count = 100_000  # pairs
    seed: Natural = 0  # of the points


@settings
class NoScale:
    """These tables have the same size at every scale."""


@settings
class TimeScale:
    """What is timed."""

    batch: Count = 4  # images
    repeats: Count = 3  # the best counts
    growth: Count = 32  # of the dense blocks with CLipSwish; the others are matched in parameters
    size: Count = 32  # pixels of a side
    scales: tuple[Count, ...] = (2, 2, 2)  # blocks of every scale


# ------------------------------------------------------------------------------------------------------- no training

SIZES: Mapping[str, tuple[FlowConfig, str]] = MappingProxyType(
    {
        "Residual Flow, CIFAR10": (ImageFlow(scales=(16,) * 3, block=residual()), "25.2M"),
        "i-DenseNet, CIFAR10": (ImageFlow(scales=(16,) * 3, block=dense(growth=172)), "24.9M"),
        "Residual Flow, ImageNet32": (ImageFlow(scales=(32,) * 3, block=residual()), "47.1M"),
        "i-DenseNet, ImageNet32": (ImageFlow(scales=(32,) * 3, block=dense(growth=172)), "47.0M"),
        "Residual Flow, CIFAR10, small": (ImageFlow(block=residual()), "8.7M"),
        "i-DenseNet, CIFAR10, small": (ImageFlow(block=dense("lipswish", growth=124)), "8.7M"),
        "Residual Flow, MNIST 32 x 32, small": (ImageFlow(channels=1, block=residual()), "5.0M"),
        "i-DenseNet, MNIST 32 x 32, small": (ImageFlow(channels=1, block=dense("lipswish", growth=108)), "5.0M"),
        "Residual Flow, toy": (VectorFlow(columns=2, block=ResidualBlocks(width=128)), "-"),
        "i-DenseNet, toy": (VectorFlow(columns=2), "-"),
    }
)


def table_4_4_1(lab: Lab[DensityModel, NoScale]) -> Report:
    """Numbers of parameters."""
    rows = [[name, f"{parameters(sizes) / 1e6:.3f}M", printed] for name, (sizes, printed) in SIZES.items()]
    table = Table(["model", "parameters", "published"], rows, "Trainable numbers, activation normalization included.")
    return report("table4.4.1", "Parameters of the models", "no training", [table])


def table_b_1(lab: Lab[DensityModel, NoScale]) -> Report:
    """The architecture of g."""
    rows = []
    for name, sizes, printed in (
        ("small, CIFAR10", SIZES["i-DenseNet, CIFAR10, small"][0], "108, LipSwish"),
        ("small, MNIST", SIZES["i-DenseNet, MNIST 32 x 32, small"][0], "124, LipSwish"),
        ("full, CIFAR10", SIZES["i-DenseNet, CIFAR10"][0], "172, CLipSwish"),
        ("full, ImageNet32", SIZES["i-DenseNet, ImageNet32"][0], "172, CLipSwish"),
    ):
        assert isinstance(sizes, ImageFlow)
        assert isinstance(sizes.block, DenseBlocks)
        blocks = ", ".join(map(str, sizes.scales))
        ours = f"{sizes.block.growth}, {sizes.block.activation}"
        rows.append([name, blocks, str(sizes.block.depth), ours, printed, f"{parameters(sizes) / 1e6:.2f}M"])
    caption = "Published growths of the small models are exchanged: 124 gives CIFAR10's 8.7M, 108 MNIST's 5.0M at 32 x 32."
    columns = ["model", "blocks of the scales", "depth", "growth, activation", "published", "parameters"]
    return report("tableB.1", "Architecture of the dense blocks", "no training", [Table(columns, rows, caption)])


PRESERVED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "table4.5.1": {"sigmoid": ".22 .21 .21", "lipswish": ".46 .51 .51", "clipswish": ".72 .71 .71", "identity": "1 1 1"},
        "tableB.2": {"sigmoid": ".09 .08 .08", "lipswish": ".47 .54 .54", "clipswish": ".83 .76 .76", "identity": "1 1 1"},
    }
)
DIMS = (1, 128, 1024)
PAIRS_AT_ONCE = 2000


def preservation(name: str, deviation: float) -> Callable[[Lab[DensityModel, ActivationScale]], Report]:
    """Table 4.5.1 (N(0, 1)) or B.2 (deviation 5): |phi(v) - phi(w)| / |v - w| of random pairs."""

    def make(lab: Lab[DensityModel, ActivationScale]) -> Report:
        scale = lab.scale
        rows = []
        for activation in ("sigmoid", "lipswish", "clipswish", "identity"):
            key = {"what": "preservation", "activation": activation, "deviation": deviation, "scale": scale}
            found = lab.once(key, lambda a=activation: ratios(a, deviation, scale))  # type: ignore[misc]
            cells = [f"{value:.2f}" for pair in found for value in pair]
            rows.append([activation, *cells, *PRESERVED[name][activation].split()])
        columns = [
            "activation",
            *(f"D={d} {m}" for d in DIMS for m in ("mean", "max")),
            *(f"published mean D={d}" for d in DIMS),
        ]
        caption = (
            f"{scale.points:,} pairs from a normal distribution of deviation {deviation:g}; maxima are extremes of the draws."
        )
        return report(name, "Signal that activations preserve", "no training", [Table(columns, rows, caption)])

    return make


@torch.no_grad()
def ratios(activation: str, deviation: float, scale: ActivationScale) -> list[list[float]]:
    """Mean and maximum for every dimension of DIMS."""
    phi: Any = (lambda x: x) if activation == "identity" else Activation(activation)  # type: ignore[arg-type]
    found = []
    for dims in DIMS:
        generator = torch.Generator().manual_seed(scale.seed)
        parts = []
        for start in range(0, scale.points, PAIRS_AT_ONCE):
            count = min(PAIRS_AT_ONCE, scale.points - start)
            v, w = deviation * torch.randn(2, count, dims, generator=generator)
            parts.append((phi(v) - phi(w)).norm(dim=1) / (v - w).norm(dim=1))
        ratio = torch.cat(parts)
        found.append([float(ratio.mean()), float(ratio.max())])
    return found


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


def toy_table(lab: Lab[DensityModel, ToyScale], rows: Mapping[str, Blocks], caption: str) -> Table:
    """Negative log-likelihood and its excess over the entropy of every row and distribution."""
    table = []
    for row in asked(rows, lab.scale.rows):
        cells = []
        flow = None
        for name in lab.scale.names:
            found = []
            for seed in range(lab.scale.seeds):
                flow = toy_model(lab, name, row, rows[row], seed)
                found.append(toy_excess(lab, flow, name, seed))
            nats, excess = [one[0] for one in found], [one[1] for one in found]
            cells += [spread(nats, ".3f"), spread(excess, ".3f"), TOY_PUBLISHED[row][name]]
        assert flow is not None
        table.append([row, str(parameters(flow.config)), *cells])
    floor = [cell for name in lab.scale.names for cell in (f"{ENTROPY[name]:.4f}", "0", "-")]
    table.append(["true density", "-", *floor])
    columns = ["model", "parameters", *(f"{n} {m}" for n in lab.scale.names for m in ("nats", "excess", "published"))]
    scale = lab.scale
    about = f"{scale.points:,} fresh points, {scale.steps} steps, {scale.seeds} seeds; no model is below the true density. "
    return Table(columns, table, about + caption)


def table_4_4_2(lab: Lab[DensityModel, ToyScale]) -> Report:
    """Toy data."""
    table = toy_table(lab, TOY_ROWS, "Published: the best of 500 evaluations on 10,000 points each.")
    return report("table4.4.2", "Negative log-likelihood of simulated points", "fresh points at every step", [table])


# ------------------------------------------------------------------------------------------------------------- images


def image_report(lab: Lab[DensityModel, ImageScale], name: str, title: str, blocks: Sequence[Block]) -> Report:
    about = f"{image_source(lab)}, models of the scale {lab.scale.size}"
    return report(name, title, about, blocks)


CIFAR_ONLY = "Published numbers are of the original CIFAR-10 with 50,000 training images, 8.7M parameters and 200 epochs."


def table_4_4_3(lab: Lab[DensityModel, ImageScale]) -> Report:
    """Small models with and without learnable concatenation, LipSwish."""
    rows = {
        RESIDUAL: image_training(lab.scale, residual()),
        DENSE: image_training(lab.scale, dense("lipswish", learned=False, growth=124)),
        DENSE_LC: image_training(lab.scale, dense("lipswish", growth=124)),
    }
    published = {RESIDUAL: "3.42", DENSE: "3.41", DENSE_LC: "3.39"}
    return image_report(
        lab, "table4.4.3", "Density of small models", [density_table(lab, rows, published, RESIDUAL, CIFAR_ONLY)]
    )


def table_4_4_4(lab: Lab[DensityModel, ImageScale]) -> Report:
    """The best models."""
    rows = {
        RESIDUAL: image_training(lab.scale, residual()),
        DENSE_LC: image_training(lab.scale, dense()),
        "i-DenseNet+LC, whitened (ours)": whitened(image_training(lab.scale, dense())),
    }
    published = {RESIDUAL: "3.42 (full: 3.28)", DENSE_LC: "3.37 (full: 3.25)"}
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
LAMBDAS: tuple[float | Literal["1/D"], ...] = (0.0, "1/D", 1.0)


def table_4_4_5(lab: Lab[DensityModel, ImageScale]) -> Report:
    """Hybrid models."""
    classes = len(open_labeled(image_source(lab), "train").classes)
    if classes < 2:
        raise UsageError("hybrid models need labels", where="--data", hint="give one folder of images for every class")
    blocks: dict[str, Blocks] = {**COUPLINGS, "Residual Blocks": residual(), "Dense Blocks": dense()}
    table = []
    for name in asked(blocks, lab.scale.rows):
        cells = []
        for weight in LAMBDAS:
            config = hybrid_training(lab.scale, blocks[name], weight, classes)
            found = measured_bits(lab, trained(lab, f"{name} {weight}", config))
            bits = "-" if weight == 0 else f"{np.mean(found['bits']):.3f}"
            cells += [f"{100 * found['accuracy']:.2f}", bits]
        table.append([name, *cells, HYBRID_PUBLISHED[name]])
    columns = ["model", *(f"lambda {w}: {m}" for w in ("0", "1/D", "1") for m in ("accuracy %", "bits/dim")), "published"]
    caption = f"{lab.scale.steps} steps a cell; published: 400 epochs, accuracy | accuracy @ bits/dim | accuracy @ bits/dim."
    return image_report(lab, "table4.4.5", "Hybrid modeling", [Table(columns, table, caption)])


ACTIVATIONS: Mapping[ActivationChoice, tuple[int, int, str, str]] = MappingProxyType(
    {  # growth of the dense blocks, width of the residual blocks, published
        "lipswish": (124, 512, "3.39", "3.42"),
        "leakylswish": (124, 512, "3.39", "3.42"),
        "clipswish": (178, 652, "3.37", "3.38"),
    }
)


def activation_rows(scale: ImageScale) -> tuple[dict[str, FlowTraining], dict[str, str]]:
    rows, published = {}, {}
    for name, (growth, width, of_dense, of_residual) in ACTIVATIONS.items():
        rows[f"{RESIDUAL}, {name}"] = image_training(scale, residual(name, width))
        rows[f"{DENSE_LC}, {name}"] = image_training(scale, dense(name, growth=growth))
        published[f"{RESIDUAL}, {name}"], published[f"{DENSE_LC}, {name}"] = of_residual, of_dense
    return rows, published


def table_4_5_2(lab: Lab[DensityModel, ImageScale]) -> Report:
    """Activations."""
    rows, published = activation_rows(lab.scale)
    table = density_table(lab, rows, published, f"{RESIDUAL}, lipswish", CIFAR_ONLY)
    return image_report(lab, "table4.5.2", "Activations of small models", [table])


def table_b_4(lab: Lab[DensityModel, ImageScale]) -> Report:
    """The widened Residual Flow on images: the widths of the dense blocks, so more parameters than they have."""
    dense_row = image_training(lab.scale, dense("lipswish", growth=124))
    assert isinstance(dense_row.model, ImageFlow)
    assert isinstance(dense_row.model.block, DenseBlocks)
    wide = WideBlocks(growth=dense_row.model.block.growth, depth=dense_row.model.block.depth)
    rows = {
        RESIDUAL: image_training(lab.scale, residual()),
        "+ extended width, equal depth": replace(dense_row, model=replace(dense_row.model, block=wide)),
        DENSE_LC: dense_row,
    }
    published = {RESIDUAL: "3.42", "+ extended width, equal depth": "7.02", DENSE_LC: "3.39"}
    table = density_table(lab, rows, published, RESIDUAL, CIFAR_ONLY + " Its toy rows: tableB.4-toy.")
    return image_report(lab, "tableB.4", "Matching architectures", [table])


def table_b_4_toy(lab: Lab[DensityModel, ToyScale]) -> Report:
    """The toy columns of Table B.4."""
    return report("tableB.4-toy", "Matching architectures, simulated points", "fresh points", [toy_table(lab, B4_ROWS, "")])


# --------------------------------------------------------------------------------------------------------------- time

TIME_PUBLISHED = {"lipswish": "1.3 / -43 / 8.8 %", "leakylswish": "1.3 / -28 / 231.9 %", "clipswish": "0.6 / -145 / 11 %"}


def table_b_3(lab: Lab[DensityModel, TimeScale]) -> Report:
    """CPU time of forward pass, training step and inverse of untrained models, and evaluations of g a block."""
    rows = []
    for activation in ACTIVATIONS:
        key = {"what": "time", "activation": activation, "scale": lab.scale}
        ours, theirs = lab.once(key, lambda a=activation: time_pair(lab.scale, a))  # type: ignore[misc]
        cells = [f"{100 * (other / own - 1):+.0f} %" for own, other in zip(ours[:3], theirs[:3], strict=True)]
        rows.append([activation, *cells, f"{ours[3]:.1f} / {theirs[3]:.1f}", TIME_PUBLISHED[activation]])
    caption = (
        "i-DenseNet against a Residual Flow of as many parameters, + is faster; CPU time, untrained weights at their bounds."
    )
    columns = [
        "activation",
        "forward",
        "training step",
        "sampling",
        "evaluations a block",
        "published (forward / train / sampling)",
    ]
    return report("tableB.3", "Running time", "untrained models, one thread", [Table(columns, rows, caption)])


def time_pair(scale: TimeScale, activation: ActivationChoice) -> list[list[float]]:
    """Seconds of three tasks and evaluations of g a block, for dense blocks and for residual blocks."""
    from latens.systems.flow.trials import matched

    base = ImageFlow(size=scale.size, scales=scale.scales, block=dense(growth=scale.growth), tail=1, tail_width=16)
    target = parameters(base)
    found = []
    for block in (dense(activation), residual(activation)):
        torch.manual_seed(0)
        flow = Flow(matched(replace(base, block=block), target)).to(memory_format=torch.channels_last)
        found.append(time_one(flow, scale))
    return found


def time_one(flow: Flow, scale: TimeScale) -> list[float]:
    x = torch.rand(scale.batch, 3, scale.size, scale.size).contiguous(memory_format=torch.channels_last)
    flow.train()
    with torch.no_grad():
        flow(x, Series(1))
        for parameter in (p for name, p in flow.named_parameters() if name.endswith("linear.weight")):
            parameter.mul_(2)  # to their bounds, as after some training
    flow.power_iterations(20)
    flow.eval()
    with torch.no_grad():
        z = flow(x, Series(1)).latent

    def forward() -> None:
        with torch.no_grad():
            flow(x, Series(1))

    def step() -> None:
        flow.zero_grad(set_to_none=True)
        (-flow(x, Series(4)).log_prob.mean()).backward()

    def invert() -> None:
        flow.inverse(z)

    seconds = []
    for act in (forward, step, invert):
        taken = []
        for _ in range(scale.repeats):
            started = time.process_time()
            act()
            taken.append(time.process_time() - started)
        seconds.append(min(taken))
    counts = [float(one.last.evaluations.double().mean()) for one in flow.residual_maps() if one.last is not None]
    return [*seconds, float(np.mean(counts))]


# ------------------------------------------------------------------------------------------------------------- scales


def report(name: str, title: str, about: str, blocks: Sequence[Block]) -> Report:
    return Report(name=name, title=title, about=about, blocks=list(blocks))


IMAGE_SCALES = {
    "tiny": ImageScale(size="tiny", steps=2, images=6),
    "cpu": ImageScale(),
    "paper": ImageScale(size="paper", steps=156_250, images=10_000),
}
TOY_SCALES = {
    "tiny": ToyScale(steps=3, points=50, blocks=2, names=("moons",)),
    "cpu": ToyScale(),
    "paper": ToyScale(steps=50_000, seeds=3),
}
ACTIVATION_SCALES = {
    "tiny": ActivationScale(points=200),
    "cpu": ActivationScale(),
    "paper": ActivationScale(),
}
FIXED = {"tiny": NoScale(), "cpu": NoScale(), "paper": NoScale()}
TIME_SCALES = {
    "tiny": TimeScale(batch=1, repeats=1, growth=4, size=8, scales=(1,)),
    "cpu": TimeScale(),
    "paper": TimeScale(batch=64, growth=178, scales=(4, 4, 4)),
}
TABLES: Mapping[str, Artifact[DensityModel, Any]] = MappingProxyType(
    {
        "table4.4.1": Artifact(make=table_4_4_1, scales=FIXED),
        "table4.4.2": Artifact(make=table_4_4_2, scales=TOY_SCALES),
        "table4.4.3": Artifact(make=table_4_4_3, scales=IMAGE_SCALES),
        "table4.4.4": Artifact(make=table_4_4_4, scales=IMAGE_SCALES),
        "table4.4.5": Artifact(
            make=table_4_4_5,
            scales={**IMAGE_SCALES, "tiny": replace(IMAGE_SCALES["tiny"], rows=("coupling", "Dense Blocks"))},
        ),
        "table4.5.1": Artifact(make=preservation("table4.5.1", 1.0), scales=ACTIVATION_SCALES),
        "table4.5.2": Artifact(make=table_4_5_2, scales=IMAGE_SCALES),
        "tableB.1": Artifact(make=table_b_1, scales=FIXED),
        "tableB.2": Artifact(make=preservation("tableB.2", 5.0), scales=ACTIVATION_SCALES),
        "tableB.3": Artifact(make=table_b_3, scales=TIME_SCALES),
        "tableB.4": Artifact(make=table_b_4, scales=IMAGE_SCALES),
        "tableB.4-toy": Artifact(make=table_b_4_toy, scales=TOY_SCALES),
    }
)
