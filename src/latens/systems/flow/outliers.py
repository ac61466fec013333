"""Out-of-distribution detection: area under the ROC curve of each score, by kind of outlier.

With JPEG training images the outliers are JPEG-compressed too; otherwise a score could separate the sets by JPEG artifacts.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from latens.contract import Artifact
from latens.data.image_output import png_bytes
from latens.data.labeled import open_labeled
from latens.errors import UsageError
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.inference.page import Block, Figure, Table
from latens.settings import Count, Natural, settings
from latens.shapes import Float, UInt8
from latens.systems.flow.config import ImageFlow
from latens.systems.flow.dataset import in_channels, read_squares
from latens.systems.flow.drawing import image_grid
from latens.systems.flow.original import stored_as_jpeg
from latens.systems.flow.predict import DensityModel
from latens.systems.flow.unusual import STATISTICS, Reference, statistics_of

logger = logging.getLogger(__name__)


@settings
class UnusualScale:
    """Images that are compared."""

    images: Count = 300  # number of typical images, and of outliers of each kind
    jpeg_quality: Natural = 0  # JPEG quality of the typical images, applied to the outliers; 0: no JPEG
    seed: Natural = 0  # seed of the simulated outliers


def auroc(typical: Float[np.ndarray, "n"], outliers: Float[np.ndarray, "m"]) -> float:
    """Probability that an outlier has the higher score, ties counted half."""
    ranks = np.concatenate([typical, outliers]).argsort(kind="stable").argsort(kind="stable").astype(np.float64)
    _, inverse = np.unique(np.concatenate([typical, outliers]), return_inverse=True)
    mean_rank = np.bincount(inverse, ranks) / np.bincount(inverse)
    rank_sum = mean_rank[inverse][len(typical) :].sum() - len(outliers) * (len(outliers) - 1) / 2
    return float(rank_sum / (len(typical) * len(outliers)))


def simulated_outliers(kind: str, count: int, size: int, rng: np.random.Generator) -> list[UInt8[np.ndarray, "S S 3"]]:
    """`count` images of one kind: constant color, noise, blurred noise, or white digits on black."""
    made = []
    for _ in range(count):
        if kind == "constant":
            image = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (size, size, 3)).copy()
        elif kind == "digits":
            image = digit(int(rng.integers(10)), size, rng)
        else:
            image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            if kind == "blurred noise":
                image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
        made.append(image)
    return made


def digit(number: int, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
    """A digit at a random position and angle."""
    canvas = Image.new("L", (size, size))
    font = ImageFont.load_default(size=float(size) * rng.uniform(0.6, 0.8))
    ImageDraw.Draw(canvas).text((size / 2, size / 2), str(number), fill=255, font=font, anchor="mm")
    right, down = (int(value) for value in rng.integers(-size // 12, size // 12 + 1, 2))
    turned = canvas.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BILINEAR, translate=(right, down))
    return np.repeat(np.asarray(turned)[..., None], 3, axis=2)


def through_jpeg(image: UInt8[np.ndarray, "S S 3"], quality: int) -> UInt8[np.ndarray, "S S 3"]:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


SIMULATED = ("digits", "constant", "noise", "blurred noise")


def unusual(lab: ExperimentRunner[DensityModel, UnusualScale]) -> Report:
    """Table of scores. Typical images are the test split of the first data set; the other data sets and simulated images are
    the outliers.
    """
    flow, scale = lab.loaded, lab.scale
    config, reference = flow.config, flow.reference
    if not isinstance(config, ImageFlow) or reference is None:
        raise UsageError("this table needs an image model with reference statistics", where=flow.name)
    if not lab.sources:
        raise UsageError("typical images are missing", where="--data", hint="name the data set of the model")
    if not scale.jpeg_quality and stored_as_jpeg(lab.sources[0]):
        what = "the typical images are JPEGs and the outliers are not, so JPEG artifacts alone separate them"
        logger.warning("%s; compress the outliers as well with --set jpeg_quality=75", what)
    typical = open_labeled(lab.sources[0], "test").first_few(scale.images)
    sets: dict[str, np.ndarray] = {"typical": read_squares(typical, config.size, config.channels)[0]}
    for source in lab.sources[1:]:
        others = open_labeled(source, "test").first_few(scale.images)
        squares = list(read_squares(others, config.size, 3)[0].transpose(0, 2, 3, 1))
        sets[others.name] = as_typical(squares, config.channels, scale.jpeg_quality)
    for number, kind in enumerate(SIMULATED):
        images = simulated_outliers(kind, scale.images, config.size, np.random.default_rng([scale.seed, number]))
        sets[kind] = as_typical(images, config.channels, scale.jpeg_quality)
    key = {"what": "unusual", "model": flow.model_id, "data": [str(source) for source in lab.sources], "scale": scale}
    found = lab.once(key, lambda: {name: statistics(flow, pixels) for name, pixels in sets.items()})
    return _report(flow, found, sets, reference, scale.jpeg_quality)


def as_typical(images: Sequence[UInt8[np.ndarray, "S S 3"]], channels: int, jpeg_quality: int) -> UInt8[np.ndarray, "n C S S"]:
    """Outliers with the channels of the model, after JPEG compression unless `jpeg_quality` is 0."""
    if jpeg_quality:
        images = [through_jpeg(image, jpeg_quality) for image in images]
    return np.stack([in_channels(image, channels) for image in images])


def statistics(flow: DensityModel, pixels: np.ndarray) -> list[list[float]]:
    """Statistics of every image (see `unusual.STATISTICS`)."""
    scores = flow.scores(torch.from_numpy(pixels))
    plain: list[list[float]] = statistics_of(pixels, scores.latents, scores.mean, flow.model.shape).round(8).tolist()
    return plain


def scores_of(statistics: Float[np.ndarray, "n F"], reference: Reference) -> Mapping[str, Float[np.ndarray, "n"]]:
    """Scores by name; outliers have higher values."""
    column = dict(zip(STATISTICS, statistics.T, strict=True))
    center = dict(zip(STATISTICS, reference.mean, strict=True))
    bits = column["bits_per_dim"]
    return {
        "unusual (all statistics)": reference.distance(statistics),
        "typicality": np.abs(bits - center["bits_per_dim"]),
        "likelihood minus complexity": bits - column["webp_bits_per_dim"],
        "goodness of fit": np.abs(column["mean_square"] - center["mean_square"]),
        "raw likelihood": bits,
    }


def _report(
    flow: DensityModel,
    found: Mapping[str, list[list[float]]],
    sets: Mapping[str, np.ndarray],
    reference: Reference,
    jpeg_quality: int,
) -> Report:
    typical = scores_of(np.array(found["typical"]), reference)
    kinds = [name for name in found if name != "typical"]
    rows = []
    for score in typical:
        cells = [auroc(typical[score], scores_of(np.array(found[kind]), reference)[score]) for kind in kinds]
        rows.append([score, *(f"{cell:.3f}" for cell in cells)])
    caption = "Area under the ROC curve: 1 separates all outliers, 0.5 is chance; below 0.5 outliers look more typical."
    blocks: list[Block] = [Table(["score", *kinds], rows, caption)]
    columns = min(8, *map(len, sets.values()))
    shown = [one for pixels in sets.values() for one in pixels[:columns]]
    sheet = image_grid([np.repeat(one, 3 // len(one), axis=0).transpose(1, 2, 0) for one in shown], columns=columns, enlarge=2)
    blocks.append(Figure(png_bytes(sheet), "Rows: " + ", ".join(sets), alt="images of every set", pixelated=True))
    step = f"outliers compressed as JPEG of quality {jpeg_quality}" if jpeg_quality else "outliers without JPEG"
    about = f"{flow.name}, {len(found['typical'])} typical images, {step}"
    return Report(name="unusual", title="Unusual images", about=about, blocks=blocks)


UNUSUAL: Mapping[str, Artifact[DensityModel, UnusualScale]] = {
    "unusual": Artifact(
        make=unusual,
        scales={"tiny": UnusualScale(images=6), "cpu": UnusualScale(), "paper": UnusualScale(images=2000)},
    )
}
