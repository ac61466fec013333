"""Tables 4.4.1, 4.5.1 and B.1 to B.3 (Perugachi-Diaz 2024), which need no training: parameters, activations, times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from latens.codes.logdet import Series
from latens.contract import Artifact
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.inference.page import Block, Table
from latens.nn.lipswish import Activation
from latens.settings import Count, Natural, settings
from latens.systems.flow.config import (
    ActivationChoice,
    DenseBlocks,
    FlowConfig,
    ImageFlow,
    ResidualBlocks,
    VectorFlow,
)
from latens.systems.flow.model import Flow
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.trials import (
    dense,
    matched,
    parameters,
    residual,
)


def report(name: str, title: str, about: str, blocks: Sequence[Block]) -> Report:
    return Report(name=name, title=title, about=about, blocks=list(blocks))


@settings
class ActivationScale:
    """Settings of the tables of signal preservation."""

    points: Count = 100_000  # number of pairs
    seed: Natural = 0  # seed of the points


@settings
class NoScale:
    """No settings: the artifact is the same at every scale."""


@settings
class TimeScale:
    """Settings of the timed models."""

    batch: Count = 4  # images of a batch
    repeats: Count = 3  # repetitions; the minimum time counts
    growth: Count = 32  # growth of the dense blocks with CLipSwish; the other models are matched in parameters
    size: Count = 32  # side in pixels
    scales: tuple[Count, ...] = (2, 2, 2)  # blocks of every scale


ACTIVATIONS: Mapping[ActivationChoice, tuple[int, int, str, str]] = MappingProxyType(
    {  # growth of the dense blocks, width of the residual blocks, published bits/dim of both
        "lipswish": (124, 512, "3.39", "3.42"),
        "leakylswish": (124, 512, "3.39", "3.42"),
        "clipswish": (178, 652, "3.37", "3.38"),
    }
)


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


def table_4_4_1(lab: ExperimentRunner[DensityModel, NoScale]) -> Report:
    """Table 4.4.1: numbers of parameters."""
    rows = [[name, f"{parameters(sizes) / 1e6:.3f}M", printed] for name, (sizes, printed) in SIZES.items()]
    table = Table(
        ["model", "parameters", "published"], rows, "Trainable parameters, including those of the activation normalization."
    )
    return report("table4.4.1", "Parameters of the models", "no training", [table])


def table_b_1(lab: ExperimentRunner[DensityModel, NoScale]) -> Report:
    """Table B.1: architecture of the branch g."""
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
    caption = "The published growths of the two small models are swapped: 124 gives the 8.7M of CIFAR10, 108 the 5.0M of MNIST."
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


def preservation(name: str, deviation: float) -> Callable[[ExperimentRunner[DensityModel, ActivationScale]], Report]:
    """Table 4.5.1 (points from N(0, 1)) or B.2 (standard deviation 5): |phi(v) - phi(w)| / |v - w| of random pairs."""

    def make(lab: ExperimentRunner[DensityModel, ActivationScale]) -> Report:
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
        caption = f"{scale.points:,} pairs from a normal distribution of deviation {deviation:g}; max is over the drawn pairs."
        return report(name, "Signal preservation of activations", "no training", [Table(columns, rows, caption)])

    return make


@torch.no_grad()
def ratios(activation: str, deviation: float, scale: ActivationScale) -> list[list[float]]:
    """Mean and maximum of the ratio for every dimension of DIMS."""
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


# --------------------------------------------------------------------------------------------------------------- time

TIME_PUBLISHED = {"lipswish": "1.3 / -43 / 8.8 %", "leakylswish": "1.3 / -28 / 231.9 %", "clipswish": "0.6 / -145 / 11 %"}


def table_b_3(lab: ExperimentRunner[DensityModel, TimeScale]) -> Report:
    """Table B.3: CPU time of forward pass, training step and inverse of untrained models, and evaluations of g per block."""
    rows = []
    for activation in ACTIVATIONS:
        key = {"what": "time", "activation": activation, "scale": lab.scale}
        ours, theirs = lab.once(key, lambda a=activation: time_pair(lab.scale, a))  # type: ignore[misc]
        cells = [f"{100 * (other / own - 1):+.0f} %" for own, other in zip(ours[:3], theirs[:3], strict=True)]
        rows.append([activation, *cells, f"{ours[3]:.1f} / {theirs[3]:.1f}", TIME_PUBLISHED[activation]])
    caption = "i-DenseNet compared with a Residual Flow of equal size; + is faster. CPU time, untrained weights at the bounds."
    columns = [
        "activation",
        "forward",
        "training step",
        "sampling",
        "evaluations per block",
        "published (forward / train / sampling)",
    ]
    return report("tableB.3", "Running time", "untrained models, one thread", [Table(columns, rows, caption)])


def time_pair(scale: TimeScale, activation: ActivationChoice) -> list[list[float]]:
    """Results of `time_one` for dense blocks and for residual blocks."""
    base = ImageFlow(size=scale.size, scales=scale.scales, block=dense(growth=scale.growth), tail=1, tail_width=16)
    target = parameters(base)
    found = []
    for block in (dense(activation), residual(activation)):
        torch.manual_seed(0)
        flow = Flow(matched(replace(base, block=block), target)).to(memory_format=torch.channels_last)
        found.append(time_one(flow, scale))
    return found


def time_one(flow: Flow, scale: TimeScale) -> list[float]:
    """CPU seconds of forward pass, training step and inverse, and evaluations of g per block."""
    x = torch.rand(scale.batch, 3, scale.size, scale.size).contiguous(memory_format=torch.channels_last)
    flow.train()
    with torch.no_grad():
        flow(x, Series(1))
        for parameter in (p for name, p in flow.named_parameters() if name.endswith("linear.weight")):
            parameter.mul_(2)  # above their bounds, so that the normalization is active, as after training
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
UNTRAINED: Mapping[str, Artifact[DensityModel, Any]] = MappingProxyType(
    {
        "table4.4.1": Artifact(make=table_4_4_1, scales=FIXED),
        "table4.5.1": Artifact(make=preservation("table4.5.1", 1.0), scales=ACTIVATION_SCALES),
        "tableB.1": Artifact(make=table_b_1, scales=FIXED),
        "tableB.2": Artifact(make=preservation("tableB.2", 5.0), scales=ACTIVATION_SCALES),
        "tableB.3": Artifact(make=table_b_3, scales=TIME_SCALES),
    }
)
