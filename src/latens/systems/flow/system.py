"""Record of the flow system: example data, application to one input, benchmark cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from latens.contract import Evaluation, Example, System
from latens.data.samples import write_two_classes
from latens.data.source import Source
from latens.experiments.bench import Case
from latens.systems.flow.build import build
from latens.systems.flow.config import ImageFlow, VectorFlow
from latens.systems.flow.demo import section
from latens.systems.flow.evaluate import FlowEvaluation, evaluate, holds_out
from latens.systems.flow.figures import FIGURES
from latens.systems.flow.gaussian import fit_gaussian
from latens.systems.flow.outliers import UNUSUAL
from latens.systems.flow.predict import DensityModel, load
from latens.systems.flow.recipes import RECIPES, FlowTraining
from latens.systems.flow.tables import TABLES

EXAMPLE_IMAGES, EXAMPLE_SIZE = 24, (12, 12)  # width and height
BENCH_IMAGES, BENCH_ROWS = 8, 1000


def example(folder: Path, seed: int = 0) -> Example:
    """Writes blurred random images of two classes: warm and cold colors."""
    paths = write_two_classes(folder, EXAMPLE_IMAGES, EXAMPLE_SIZE, seed)
    sources = [Source("", str(folder))]
    return Example(kind="image", sources=sources, inputs=paths[:2], test_sources=sources)


def apply(flow: DensityModel, path: Path) -> Mapping[str, np.ndarray]:
    """Density and latents of one image, or of the rows of one table."""
    if isinstance(flow.config, VectorFlow):
        return {"log_prob": flow.log_prob(path), "latents": flow(path).numpy()}
    (density,) = flow.density(path, draws=2)
    return {"bits_per_dim": np.array(density.bits_per_dim), "latents": flow(path).numpy()}


def cases(flow: DensityModel) -> Sequence[Case]:
    """Benchmark cases: density and samples of rows; latents, inverse, density and samples of images."""
    if isinstance(flow.config, VectorFlow):
        rows = torch.from_numpy(flow.sample(BENCH_ROWS))
        return [
            Case("density of 1,000 rows", lambda: flow.log_prob(rows), BENCH_ROWS, "rows"),
            Case("1,000 samples", lambda: flow.sample(BENCH_ROWS), BENCH_ROWS, "rows"),
            Case("kernel density of 1,000 rows", partial(_kernel_density, rows.numpy()), BENCH_ROWS, "rows", None, True),
        ]
    pixels = _random_images(flow.config)
    latents = flow(pixels)
    timed: list[tuple[str, Callable[[], object]]] = [
        ("latents", lambda: flow(pixels)),
        ("inverse", lambda: flow.inverse(latents)),
        ("density, one draw", lambda: flow.density(pixels, draws=1)),
        ("samples", lambda: flow.sample(BENCH_IMAGES)),
    ]
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    gaussian = fit_gaussian(planes)
    own = [Case(f"{name} of {BENCH_IMAGES} images", act, BENCH_IMAGES) for name, act in timed]
    peer = partial(gaussian.bits_per_dim, planes)
    return [*own, Case(f"Gaussian density of {BENCH_IMAGES} images", peer, BENCH_IMAGES, peer=True)]


def _kernel_density(rows: np.ndarray) -> np.ndarray:
    """Log-density of rows under Gaussian kernels on the same rows."""
    from sklearn.neighbors import KernelDensity

    found: np.ndarray = KernelDensity(bandwidth="scott").fit(rows).score_samples(rows)
    return found


def _random_images(config: ImageFlow) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (BENCH_IMAGES, config.size, config.size, 3), dtype=np.uint8)


SYSTEM = System[FlowTraining, DensityModel](
    name="flow",
    title="Densities, samples and latents by invertible DenseNets",
    recipes=RECIPES,
    example=example,
    build=build,
    load=load,
    apply=apply,
    evaluation=Evaluation(
        options=FlowEvaluation(),
        run=evaluate,
        quick=FlowEvaluation(images=6, draws=1),
        files=("evaluation.jsonl",),
        holds_out=holds_out,
    ),
    cases=cases,
    artifacts={**TABLES, **FIGURES, **UNUSUAL},
    demo=section,
)
