"""Changes of the pixels of a crop that cameras, stains and files make. Pixels are normalized as in `compose`."""

from __future__ import annotations

import math

import cv2
import numpy as np

from latens.shapes import Float
from latens.systems.amodal.cells.fields import Kind

Pixels = Float[np.ndarray, "H W 3"]


def augmented(rng: np.random.Generator, pixels: Pixels, kind: Kind | None) -> Pixels:
    """A randomly changed copy: color, tone, background, focus, noise, depth of bits, compression, scale bar."""
    x = pixels.copy()
    x = _fluorescent(rng, x) if kind == "fluorescent" else _colored(rng, x)
    if rng.random() < 0.12:
        x = np.float32(1) - x
    x = _tone(rng, x)
    if rng.random() < 0.3:
        x = _background(rng, x)
    if rng.random() < 0.25:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.5:
        x = x + np.float32(abs(rng.normal(0, 0.05))) * rng.standard_normal(
            (*x.shape[:2], 1 if rng.random() < 0.7 else 3), dtype=np.float32
        )
    if rng.random() < 0.15:
        levels = math.exp(rng.uniform(math.log(12), math.log(128)))
        x = np.round(x * levels) / np.float32(levels)
    if rng.random() < 0.2:
        x = _compressed(rng, x)
    if rng.random() < 0.06:
        x = _scale_bar(rng, x)
    if rng.random() < 0.4:
        low, high = np.percentile(x, (0.5, 99.8))
        x = (x - low) / max(high - low, 0.1)
    return np.clip(x, -0.5, 2.0).astype(np.float32)


def _fluorescent(rng: np.random.Generator, x: Pixels) -> Pixels:
    """Gray, or light of one or two colors."""
    if rng.random() < 0.2:
        weight = rng.choice([0.0, 0.0, 0.3, 1.0], 3)
        weight[int(rng.integers(3))] = 1.0
        return x * weight.astype(np.float32)
    return x


def _colored(rng: np.random.Generator, x: Pixels) -> Pixels:
    if rng.random() < 0.15:
        return np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.15:
        x = x[..., rng.permutation(3)]
    if rng.random() < 0.3:
        x = _stained_otherwise(rng, x)
    gamma = np.exp(0.25 * rng.standard_normal(3)).astype(np.float32)
    return np.clip(x, 0, None) ** gamma


def _stained_otherwise(rng: np.random.Generator, x: Pixels) -> Pixels:
    """Optical densities of the three channels mixed a little, as other dyes and light would."""
    mixed = (np.eye(3) + 0.15 * rng.standard_normal((3, 3))).astype(np.float32)
    return np.clip(np.exp(np.log(np.clip(x, 0.02, 2)) @ mixed), 0, 2)


def _tone(rng: np.random.Generator, x: Pixels) -> Pixels:
    gamma = np.float32(math.exp(0.3 * rng.standard_normal()))
    x = np.sign(x) * np.abs(x) ** gamma
    return np.float32(math.exp(0.2 * rng.standard_normal())) * x + np.float32(0.06 * rng.standard_normal())


def _background(rng: np.random.Generator, x: Pixels) -> Pixels:
    """A vignette, or a gradient of light."""
    height, width = x.shape[:2]
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    v, u = (v / height - rng.uniform(-0.5, 1.5)), (u / width - rng.uniform(-0.5, 1.5))
    shade = (v * v + u * u) * np.float32(rng.uniform(-0.3, 0.3)) + (v * rng.normal(0, 0.15) + u * rng.normal(0, 0.15))
    shade = shade.astype(np.float32)[..., None]
    return x * (1 + shade) if rng.random() < 0.5 else x + shade


def _compressed(rng: np.random.Generator, x: Pixels) -> Pixels:
    levels = np.clip(x * 200 + 20, 0, 255).astype(np.uint8)
    _, blob = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))])
    decoded = cv2.imdecode(blob, cv2.IMREAD_COLOR)
    assert decoded is not None
    return (decoded[..., ::-1].astype(np.float32) - 20) / 200


def _scale_bar(rng: np.random.Generator, x: Pixels) -> Pixels:
    """A bar and a length, white or black."""
    height, width = x.shape[:2]
    drawn = np.zeros((height, width), dtype=np.uint8)
    top, left = int(rng.integers(height)), int(rng.integers(width // 2))
    cv2.rectangle(drawn, (left, top), (left + int(rng.integers(20, width)), top + int(rng.integers(2, 8))), 255, -1)
    text = f"{rng.integers(1, 500)} um"
    cv2.putText(drawn, text, (left, top - 4), cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.3, 0.8)), 255, 1)
    level = np.float32(1.2 if rng.random() < 0.6 else -0.1)
    return x + (level - x) * (drawn[..., None] / np.float32(255))
