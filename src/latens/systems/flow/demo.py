"""Section of `latens demo`: samples, densities of tiles of photographs, the least and the most unusual tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latens.data.image_output import png_bytes, write_image
from latens.inference.page import Block, Figure, Gallery, Links, Section, Table
from latens.systems.flow.config import ImageFlow
from latens.systems.flow.drawing import image_grid
from latens.systems.flow.evaluate import photograph_tiles, reconstruction
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.unusual import complexity, statistics_of

INTRO = (
    "A bijection between images of 32 × 32 pixels and independent normal latents. It gives the likelihood of an image and draws"
    " samples by its inverse; a proven Lipschitz bound below 1 guarantees that every block is invertible."
)
TILES, EDGE, SAMPLES = 60, 6, 24  # number of scored tiles, of tiles shown at each end, and of samples


def section(flow: DensityModel, folder: Path) -> Section:
    """The section. Samples are written into `folder` as an image."""
    config = flow.config
    if not isinstance(config, ImageFlow):
        return Section("Densities", [Table(["bound of every block"], [[f"{one.lipschitz:.4f}"] for one in flow.certify()], "")])
    folder.mkdir(parents=True, exist_ok=True)
    sheet = image_grid(list(flow.sample(SAMPLES)), columns=8, enlarge=3)
    write_image(folder / "samples.png", Image.fromarray(sheet))
    tiles = photograph_tiles(config, TILES)
    scores = flow.scores(torch.from_numpy(tiles))
    files = np.array([complexity(one) for one in tiles])
    blocks: list[Block] = [
        INTRO,
        Figure(png_bytes(sheet), "Samples", "Inverse of latents drawn from a normal distribution.", alt="samples"),
    ]
    if flow.reference is not None:
        unusual = flow.reference.distance(statistics_of(tiles, scores.latents, scores.mean, flow.model.shape))
        order = np.argsort(unusual, kind="stable")
        figures = [
            _tiles(tiles[order[:EDGE]], scores.mean[order[:EDGE]], "Least unusual"),
            _tiles(tiles[order[-EDGE:]], scores.mean[order[-EDGE:]], "Most unusual"),
        ]
        blocks.append(Gallery(figures, 2))
    bounds = [one.lipschitz for one in flow.certify()]
    back = reconstruction(flow, tiles[:8])
    rows = [
        ["tiles of photographs, bits per dimension", f"{scores.mean.mean():.3f}"],
        ["the same as lossless WebP files", f"{files.mean():.3f}"],
        ["largest error of image → latents → image, of 1", f"{back['largest error']:.1e}"],
        ["evaluations of a block for its inverse", f"{back['evaluations']:.1f}"],
    ]
    if bounds:
        rows.append(["largest proven Lipschitz bound of a block (below 1: invertible)", f"{max(bounds):.4f}"])
    blocks += [Table(["measured now", "value"], rows, ""), Links("File:", [f"{folder.name}/samples.png"])]
    return Section("Densities of images", blocks)


def _tiles(tiles: np.ndarray, bits: np.ndarray, title: str) -> Figure:
    sheet = image_grid([np.repeat(one, 3 // len(one), axis=0).transpose(1, 2, 0) for one in tiles], columns=EDGE, enlarge=3)
    caption = "bits per dimension: " + ", ".join(f"{value:.2f}" for value in bits)
    return Figure(png_bytes(sheet), title, caption, alt=title, pixelated=True)
