"""Evaluation: bits per dimension of held-out images, or nats of held-out rows, compared with baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from latens.data.duplicates import digest_of
from latens.data.images import read_image
from latens.data.labeled import has_test_split, open_labeled
from latens.data.samples import photographs
from latens.data.source import Source, one_source
from latens.data.squares import center_square
from latens.experiments.journal import Journal
from latens.experiments.report import Report
from latens.inference.page import Block, Table
from latens.settings import Count, Natural, settings, to_dict
from latens.systems.flow.config import ImageFlow, PointsConfig, VectorFlow
from latens.systems.flow.dataset import TableData, in_channels, open_points, points_name, read_squares, require_images
from latens.systems.flow.gaussian import fit_gaussian
from latens.systems.flow.points import ENTROPY, PointsName, draw, log_density
from latens.systems.flow.predict import DensityModel, as_images
from latens.systems.flow.scoring import mean_and_error
from latens.systems.flow.unusual import complexity

NAME, JOURNAL = "evaluation", "evaluation.jsonl"
TILE = 96  # side in pixels of the tiles of photographs that are scored without --data
BATCH = 32


@settings
class FlowEvaluation:
    """Settings of an evaluation."""

    images: Count = 1000  # maximum number of test images, chosen by a hash of the name
    draws: Count = 1  # draws of dequantization noise per image
    gaussian: bool = True  # compare with a full-covariance Gaussian of the training split
    gaussian_images: Count = 20_000  # maximum number of training images for the Gaussian
    rows: Count = 100_000  # number of points of a simulated distribution
    seed: Natural = 0  # seed of the points


def evaluate(flow: DensityModel, sources: Sequence[Source], options: FlowEvaluation, folder: Path | None) -> Report:
    """Evaluates a model on the test split of one data set, or on simulated points. Results are recorded in `folder`.

    Without sources, image models are evaluated on tiles of the photographs of scikit-image, table models on their own samples.
    Raises UsageError for several sources.
    """
    one_source(sources)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(None if folder is None else folder / JOURNAL)
    open_data, measure = (_rows, _nats) if isinstance(flow.config, VectorFlow) else (_images, _bits)
    data = open_data(flow, sources, options)
    contents = digest_of(*(array for array in (data.held_out, data.fitted, data.labels) if array is not None))
    key = {"model": flow.model_id, "data": data.name, "contents": contents, "options": to_dict(options)}
    found = {"data": data.name, "images": len(data.held_out)} | journal.once(key, lambda: measure(flow, data, options))
    return _report(flow, found)


def holds_out(flow: DensityModel, source: Source) -> bool:
    """True if `evaluate` measures only rows and images of this source that are in no training."""
    return isinstance(flow.config, VectorFlow) or has_test_split(source)


class HeldOut(NamedTuple):
    """Images (n, C, S, S) or rows (n, d) that are scored, and those that the Gaussian is fitted to."""

    name: str
    held_out: np.ndarray
    fitted: np.ndarray | None = None
    labels: np.ndarray | None = None
    points: PointsName | None = None  # a distribution whose density is known


def _images(flow: DensityModel, sources: Sequence[Source], options: FlowEvaluation) -> HeldOut:
    config = flow.config
    assert isinstance(config, ImageFlow)
    if not sources:
        return HeldOut("photographs (tiles)", photograph_tiles(config, options.images))
    require_images(sources)
    test = open_labeled(sources[0], "test").first_few(options.images).distinct()
    pixels, kept = read_squares(test, config.size, config.channels)
    fitted = None
    if options.gaussian:
        train = open_labeled(sources[0], "train").first_few(options.gaussian_images)
        fitted = read_squares(train, config.size, config.channels)[0]
    return HeldOut(test.name, pixels, fitted, test.labels[kept])


def _bits(flow: DensityModel, data: HeldOut, options: FlowEvaluation) -> dict[str, Any]:
    pixels = data.held_out
    scores = flow.scores(torch.from_numpy(pixels), draws=options.draws, bounds=True)
    rows = [(flow.name, scores.mean), ("WebP lossless, one file an image", np.array([complexity(one) for one in pixels]))]
    if data.fitted is not None:
        rows.insert(0, ("Gaussian, full covariance", fit_gaussian(data.fitted).bits_per_dim(pixels)))
    found: dict[str, Any] = {"rows": _compared(rows, scores.mean)}
    found["truncation"] = float(scores.tail.mean())
    found["reconstruction"] = reconstruction(flow, pixels[:BATCH])
    if scores.logits is not None and data.labels is not None and len(flow.classes):
        found["accuracy"] = float((scores.logits.argmax(1).numpy() == data.labels).mean())
    return found


def _compared(rows: Sequence[tuple[str, np.ndarray]], ours: np.ndarray) -> list[list[Any]]:
    """Title, mean and standard error of every row, and those of its difference from ours."""
    return [[title, *mean_and_error(values), *mean_and_error(values - ours)] for title, values in rows]


def photograph_tiles(config: ImageFlow, most: int) -> np.ndarray:
    """At most `most` tiles of photographs, resized to the size of the model."""
    tiles = []
    for photo in photographs():
        pixels = read_image(photo.path).pixels
        for top in range(0, pixels.shape[0] - TILE + 1, TILE):
            for left in range(0, pixels.shape[1] - TILE + 1, TILE):
                tile = center_square(pixels[top : top + TILE, left : left + TILE], config.size)
                tiles.append(in_channels(tile, config.channels))
    return np.stack(tiles[:most])


def reconstruction(flow: DensityModel, pixels: np.ndarray) -> dict[str, float]:
    """Maximum error of the inverse on the scale [0, 1], share of equal 8-bit values, and evaluations per block."""
    x = (torch.from_numpy(pixels).float() + 0.5) / 256
    latents = flow(list(pixels.transpose(0, 2, 3, 1)))
    back = flow.inverse(latents)
    counts = [step.last.evaluations.double() for step in flow.model.residual_maps() if step.last is not None]
    same = as_images(back)[..., : pixels.shape[1]] == pixels.transpose(0, 2, 3, 1)
    return {
        "largest error": float((back - x).abs().max()),
        "equal values": float(same.mean()),
        "evaluations": float(torch.stack(counts).mean()) if counts else 1.0,
        "most evaluations": float(torch.stack(counts).max()) if counts else 1.0,
    }


def _rows(flow: DensityModel, sources: Sequence[Source], options: FlowEvaluation) -> HeldOut:
    name = points_name(sources) if sources else None
    if name is not None:
        points = draw(name, options.rows, np.random.default_rng([options.seed, 2**20]))
        return HeldOut(str(name), points, draw(name, options.rows, np.random.default_rng([options.seed, 2**21])), points=name)
    if sources:
        data = open_points(sources, PointsConfig(), options.seed)
        assert isinstance(data, TableData)
        return HeldOut(str(sources[0]), data.table.rows[data.held_out], data.table.rows[data.kept])
    samples = flow.sample(2 * min(options.rows, 10_000), seed=options.seed)
    return HeldOut("samples of the model", samples[::2], samples[1::2])


def _nats(flow: DensityModel, data: HeldOut, options: FlowEvaluation) -> dict[str, Any]:
    assert data.fitted is not None
    ours = -flow.log_prob(data.held_out)
    rows = [("Gaussian, full covariance", gaussian_nats(data.fitted, data.held_out)), (flow.name, ours)]
    if data.points is not None:
        rows.append((f"true density (entropy {ENTROPY[data.points]:.4f})", -log_density(data.points, data.held_out)))
    return {"rows": _compared(rows, ours), "nats": True}


def gaussian_nats(fitted: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Negative log-density of `rows` under the Gaussian of `fitted`."""
    mean, covariance = fitted.mean(axis=0), np.atleast_2d(np.cov(fitted, rowvar=False))
    factor = np.linalg.cholesky(covariance + 1e-12 * np.trace(covariance) * np.eye(len(mean)))
    white = np.linalg.solve(factor, (rows - mean).T)
    nats: np.ndarray = 0.5 * (white**2).sum(axis=0) + np.log(np.diag(factor)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
    return nats


def _report(flow: DensityModel, found: dict[str, Any]) -> Report:
    unit = "nats" if found.get("nats") else "bits/dim"
    rows = [[title, *(f"{value:.4f}" for value in values)] for title, *values in found["rows"]]
    unit_of = "row" if found.get("nats") else "image"
    caption = f"± is the standard error over {unit_of}s; differences are paired by {unit_of}."
    blocks: list[Block] = [Table(["density", unit, "±", "minus ours", "±"], rows, caption)]
    certificates = flow.certify()
    if certificates:
        largest = max(one.lipschitz for one in certificates)
        facts = [["largest certified Lipschitz bound of a block", f"{largest:.4f}"]]
        if "truncation" in found:
            facts.append(["bound on the truncation error of the series, bits/dim", f"{found['truncation']:.2g}"])
        if "reconstruction" in found:
            facts += [[f"inverse: {name}", f"{value:.3g}"] for name, value in found["reconstruction"].items()]
        if "accuracy" in found:
            facts.append(["accuracy", f"{100 * found['accuracy']:.2f} %"])
        blocks.append(Table(["measured", "value"], facts, ""))
    about = f"{flow.name} on {found['data']}, {found['images']} {'rows' if found.get('nats') else 'images'}"
    return Report(name=NAME, title="Density", about=about, blocks=blocks, facts={"measured": found})
