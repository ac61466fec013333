"""Random masks from Perlin noise for training: blobs that grow, move and vanish smoothly over time."""

from __future__ import annotations

from typing import Annotated, cast

import annotated_types
import numpy as np

from latens.settings import Count, Positive, settings
from latens.shapes import Bool, Float

HASH_PRIMES = (73856093, 19349663, 83492791)  # Teschner et al. 2003


@settings
class PerlinMasks:
    """Parameters of the masks. The defaults resemble single objects: 5 to 40 % of the frame, slow motion."""

    cell: Positive = 0.4  # side of a noise cell relative to the shorter side; about the size of a blob
    cell_frames: Positive = 24.0  # length of a noise cell in frames; smaller values change faster
    octaves: Count = 2  # number of octaves; each adds detail of half the size and half the weight
    drift: Annotated[float, annotated_types.Ge(0)] = 0.01  # motion of the noise per frame, relative to the shorter side
    least: Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)] = 0.05  # smallest share of region in a clip
    most: Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)] = 0.4  # largest share of region in a clip


def perlin_masks(
    frames: int, height: int, width: int, seed: int, config: PerlinMasks | None = None
) -> Bool[np.ndarray, "T H W"]:
    """Masks of a clip: three-dimensional Perlin noise above a threshold, determined by the arguments.

    The threshold is a quantile over the whole clip; the share of region is uniform between `least` and `most`. Single frames
    may have a larger or smaller region, or none.
    """
    config = config or PerlinMasks()
    rng = np.random.default_rng(seed)
    cell = config.cell * min(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    speed = config.drift * min(height, width)
    times = np.arange(frames, dtype=np.float32)[:, None, None]
    y = (np.arange(height, dtype=np.float32)[None, :, None] + speed * np.sin(angle) * times) / cell
    x = (np.arange(width, dtype=np.float32)[None, None, :] + speed * np.cos(angle) * times) / cell
    values = np.zeros((frames, height, width), dtype=np.float32)
    for octave in range(config.octaves):
        scale = 2.0**octave
        values += perlin_noise(times / config.cell_frames * scale, y * scale, x * scale, int(rng.integers(1 << 31))) / scale
    share = rng.uniform(min(config.least, config.most), config.most)
    return cast("Bool[np.ndarray, 'T H W']", values > np.quantile(values, 1 - share))


def perlin_noise(
    z: Float[np.ndarray, "T _ _"], y: Float[np.ndarray, "T H _"], x: Float[np.ndarray, "T _ W"], seed: int
) -> Float[np.ndarray, "T H W"]:
    """Gradient noise with the quintic fade (Perlin 2002) on the grid of z, y and x; zero at integers."""
    table = np.random.default_rng(seed).normal(size=(4096, 3)).astype(np.float32)
    gradients = table / np.linalg.norm(table, axis=1, keepdims=True)
    cells = [np.floor(axis).astype(np.int64) for axis in (z, y, x)]
    parts = [(axis - whole).astype(np.float32) for axis, whole in zip((z, y, x), cells, strict=True)]
    fades = [part**3 * (part * (6 * part - 15) + 10) for part in parts]
    total: np.ndarray = np.zeros(np.broadcast_shapes(z.shape, y.shape, x.shape), dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        mixed = sum((whole + bit) * prime for whole, bit, prime in zip(cells, corner, HASH_PRIMES, strict=True))
        gradient = gradients[(mixed ^ (mixed >> 13)) & 4095]
        value = sum(gradient[..., i] * (part - bit) for i, (part, bit) in enumerate(zip(parts, corner, strict=True)))
        for fade, bit in zip(fades, corner, strict=True):
            value = value * (fade if bit else 1 - fade)
        total += value
    return total
