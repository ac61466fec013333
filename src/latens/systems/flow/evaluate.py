"""Evaluation: bits per dimension of held-out images, or nats of held-out rows, compared with baselines."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latens.data.images import read_image
from latens.data.labeled import open_labeled
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
from latens.systems.flow.points import ENTROPY, draw, log_density
from latens.systems.flow.predict import DensityModel, as_images
from latens.systems.flow.scoring import mean_and_error
from latens.systems.flow.unusual import complexity

logger = logging.getLogger(__name__)

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
    key = {"model": flow.model_id, "data": [str(source) for source in sources], "options": to_dict(options)}
    found = next((record["value"] for record in journal.read() if record.get("key") == key), None)
    if found is None:
        measure = _rows if isinstance(flow.config, VectorFlow) else _images
        found = measure(flow, sources, options)
        journal.append([{"key": key, "value": found}])
        found = json.loads(json.dumps(found))
    return _report(flow, found)


def _images(flow: DensityModel, sources: Sequence[Source], options: FlowEvaluation) -> dict[str, Any]:
    config = flow.config
    assert isinstance(config, ImageFlow)
    rows: list[tuple[str, np.ndarray]] = []
    labels = None
    if sources:
        require_images(sources)
        test = open_labeled(sources[0], "test").first_few(options.images).distinct()
        pixels, kept = read_squares(test, config.size, config.channels)
        labels, name = test.labels[kept], test.name
        if options.gaussian:
            train = open_labeled(sources[0], "train").first_few(options.gaussian_images)
            gaussian = fit_gaussian(read_squares(train, config.size, config.channels)[0])
            rows.append(("Gaussian, full covariance", gaussian.bits_per_dim(pixels)))
    else:
        pixels, name = photograph_tiles(config, options.images), "photographs (tiles)"
    scores = flow.scores(torch.from_numpy(pixels), draws=options.draws, bounds=True)
    rows.append((flow.name, scores.mean))
    rows.append(("WebP lossless, one file an image", np.array([complexity(one) for one in pixels])))
    ours = scores.mean
    table = []
    for title, bits in rows:
        mean, error = mean_and_error(bits)
        difference, paired = mean_and_error(bits - ours)
        table.append([title, mean, error, difference, paired])
    found: dict[str, Any] = {"data": name, "images": len(pixels), "rows": table}
    found["truncation"] = float(scores.tail.mean())
    found["reconstruction"] = reconstruction(flow, pixels[:BATCH])
    if scores.logits is not None and labels is not None and len(flow.classes):
        found["accuracy"] = float((scores.logits.argmax(1).numpy() == labels).mean())
    return found


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


def _rows(flow: DensityModel, sources: Sequence[Source], options: FlowEvaluation) -> dict[str, Any]:
    name = points_name(sources) if sources else None
    if name is not None:
        points = draw(name, options.rows, np.random.default_rng([options.seed, 2**20]))
        ours = -flow.log_prob(points)
        truth = -log_density(name, points)
        gaussian = gaussian_nats(draw(name, options.rows, np.random.default_rng([options.seed, 2**21])), points)
        rows = [
            ("Gaussian, full covariance", gaussian),
            (flow.name, ours),
            (f"true density (entropy {ENTROPY[name]:.4f})", truth),
        ]
        title = str(name)
    else:
        if sources:
            data = open_points(sources, PointsConfig(), options.seed)
            assert isinstance(data, TableData)
            held_out, kept = data.table.rows[data.held_out], data.table.rows[data.kept]
            title = str(sources[0])
        else:
            samples = flow.sample(2 * min(options.rows, 10_000), seed=options.seed)
            held_out, kept, title = samples[::2], samples[1::2], "samples of the model"
        ours = -flow.log_prob(held_out)
        rows = [("Gaussian, full covariance", gaussian_nats(kept, held_out)), (flow.name, ours)]
    table = []
    for label, nats in rows:
        table.append([label, *mean_and_error(nats), *mean_and_error(nats - ours)])
    return {"data": title, "images": len(ours), "rows": table, "nats": True}


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
