"""Colors under fully transparent pixels, which nobody sees: filled from their visible neighbors before coding.

Push-pull (Gortler et al. 1996): a pyramid of alpha-weighted means is built downward, and hidden pixels take the interpolated
color of the finest level that knows one. Smooth colors cost few bits and do not bleed over the rim of what is visible.
"""

from __future__ import annotations

import numpy as np

from latens.data.image_arrays import LoadedImage, Pixels

UNKNOWN = 128  # gray level of an image without visible pixels
ROW_BLOCK = 128  # rows of the image that are converted at once, even


def fill_hidden(image: LoadedImage) -> LoadedImage:
    """The image with new colors where alpha is 0, of one gray if everything is hidden; the image itself if it hides nothing."""
    if image.alpha is None or image.alpha.min() > 0:
        return image
    if image.alpha.max() == 0:
        return image._replace(pixels=np.full_like(image.pixels, UNKNOWN))
    pixels, alpha = image.pixels, image.alpha
    blocks = [_halved(*_weighted(pixels[top : top + ROW_BLOCK], alpha[top : top + ROW_BLOCK])) for top in _tops(pixels)]
    colors, weight = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    coarse = _filled(colors, weight)
    result = pixels.copy()
    for top in _tops(pixels):
        part = result[top : top + ROW_BLOCK]
        hidden = alpha[top : top + ROW_BLOCK] == 0
        first = max(top // 2 - 1, 0)  # one coarse row on either side, for the interpolation
        wide = _doubled(coarse[first : (top + len(part) + 1) // 2 + 1])
        start = top - 2 * first
        part[hidden] = np.rint(wide[start : start + len(part), : part.shape[1]][hidden]).astype(np.uint8)
    return image._replace(pixels=result)


def visible(image: LoadedImage) -> np.ndarray | None:
    """True (H, W) where alpha is not 0; None if every pixel counts: all are visible, or none is."""
    if image.alpha is None or image.alpha.max() == 0:
        return None
    return np.asarray(image.alpha > 0)


def _tops(pixels: Pixels) -> range:
    return range(0, len(pixels), ROW_BLOCK)


def _weighted(pixels: Pixels, alpha: Pixels) -> tuple[np.ndarray, np.ndarray]:
    weight = alpha.astype(np.float32)[..., None] / 255
    return pixels.astype(np.float32) * weight, weight


def _filled(colors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colors (h, w, 3) of a level, from sums weighted by `weight` (h, w, 1); unknown ones from the coarser levels."""
    known: np.ndarray = colors / np.maximum(weight, 1e-12)
    if weight.min() > 0:
        return np.asarray(known)
    # Weights above 1 would let one large area outweigh near neighbors.
    scale = np.minimum(weight, 1) / np.maximum(weight, 1e-12)
    coarse = _filled(*_halved(colors * scale, weight * scale))
    smooth = _doubled(coarse)[: known.shape[0], : known.shape[1]]
    return np.where(weight > 0, known, smooth)


def _halved(colors: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of 2 x 2 cells; odd sides are padded with zeros."""
    return _sums(colors), _sums(weight)


def _sums(values: np.ndarray) -> np.ndarray:
    height, width = values.shape[:2]
    padded = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return np.asarray(padded[0::2, 0::2] + padded[1::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 1::2])


def _doubled(values: np.ndarray) -> np.ndarray:
    """Linear interpolation to twice the size, with repeated edges."""
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        before, after = np.concatenate([values[:1], values[:-1]]), np.concatenate([values[1:], values[-1:]])
        fine = np.empty((2 * len(values), *values.shape[1:]), values.dtype)
        fine[0::2], fine[1::2] = 0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after
        values = np.moveaxis(fine, 0, axis)
    return values
