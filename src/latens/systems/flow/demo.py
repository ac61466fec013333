"""Section of `latens demo`: samples, densities of tiles of photographs, the least and the most unusual tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latens.data.image_output import webp_bytes, write_image
from latens.data.images import Pixels
from latens.inference.page import Block, Columns, Figure, Links, Part, Section, Summary, Table
from latens.systems.flow.config import ImageFlow
from latens.systems.flow.drawing import image_grid
from latens.systems.flow.evaluate import photograph_tiles, reconstruction
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.unusual import complexity, statistics_of

INTRO = (
    "A bijection between images of 32 × 32 pixels and independent normal latents. It gives the likelihood of an image and draws"
    " samples by its inverse; a proven Lipschitz bound below 1 guarantees that every block is invertible. The model is small: "
    "its samples have the colors and edges of photographs, but no objects."
)
TILES, EDGE, SAMPLES = 60, 12, 40  # number of scored tiles, of tiles shown at each end, and of samples
COLUMNS, EDGE_COLUMNS = 10, 6  # of samples and tiles


def section(flow: DensityModel, folder: Path) -> Section:
    """The section. Samples are written into `folder` as an image."""
    config = flow.config
    if not isinstance(config, ImageFlow):
        return Section("Densities", [Table(["bound of every block"], [[f"{one.lipschitz:.4f}"] for one in flow.certify()], "")])
    folder.mkdir(parents=True, exist_ok=True)
    samples = list(flow.sample(SAMPLES))
    write_image(folder / "samples.png", Image.fromarray(image_grid(samples, columns=COLUMNS, enlarge=3)))
    tiles = photograph_tiles(config, TILES)
    scores = flow.scores(torch.from_numpy(tiles))
    bits, files = float(scores.mean.mean()), float(np.mean([complexity(one) for one in tiles]))
    caption = "Drawn at random and not selected: the inverse of normal latents."
    blocks: list[Block] = [INTRO, Figure(sheet(samples, COLUMNS), "Samples", caption, alt="samples", pixelated=True)]
    if flow.reference is not None:
        unusual = flow.reference.distance(statistics_of(tiles, scores.latents, scores.mean, flow.model.shape))
        order = np.argsort(unusual, kind="stable")
        ends = {"Least unusual tiles": order[:EDGE], "Most unusual tiles": order[-EDGE:]}
        blocks.append(Columns([_tiles(tiles[end], scores.mean[end], title) for title, end in ends.items()]))
    blocks.append(Links("File:", [f"{folder.name}/samples.png"]))
    summary = Summary(
        f"{TILES} tiles of photographs, 32 × 32 pixels",
        "their densities, unusual tiles, and new samples",
        f"{bits:.2f} bits",
        f"per dimension of a tile; a lossless WebP file takes {files:.2f}",
        "latens density images/ -o scores.csv",
    )
    return Section(
        "Measure how usual an image is",
        blocks,
        [Part("The guarantees, measured", [_checks(flow, tiles)], folded=True)],
        summary,
    )


def sheet(images: Sequence[Pixels], columns: int) -> bytes:
    """Lossless image of equal-sized images in rows, transparent between them."""
    gaps = image_grid([np.zeros_like(image) for image in images], columns=columns)[..., :1]
    return webp_bytes(np.concatenate([image_grid(images, columns=columns), 255 - gaps], axis=2))


def _tiles(tiles: np.ndarray, bits: np.ndarray, title: str) -> Figure:
    images = [np.repeat(one, 3 // len(one), axis=0).transpose(1, 2, 0) for one in tiles]
    caption = f"{bits.min():.2f} to {bits.max():.2f} bits per dimension, {bits.mean():.2f} on average."
    return Figure(sheet(images, EDGE_COLUMNS), title, caption, alt=title, pixelated=True)


def _checks(flow: DensityModel, tiles: np.ndarray) -> Table:
    back = reconstruction(flow, tiles[:8])
    rows = [
        ["largest error of image → latents → image, of 1", f"{back['largest error']:.1e}"],
        ["evaluations of a block for its inverse", f"{back['evaluations']:.1f}"],
    ]
    bounds = [one.lipschitz for one in flow.certify()]
    if bounds:
        rows.append(["largest proven Lipschitz bound of a block (below 1: invertible)", f"{max(bounds):.4f}"])
    return Table(["", "value"], rows, "")
