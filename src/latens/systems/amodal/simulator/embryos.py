"""Simulated embryos: translucent blastomeres in a zona pellucida under Hoffman modulation contrast, with exact amodal masks.

Cells are soft spheres of a given total volume, pushed apart inside the zona until they overlap by a chosen share of their
contact distance. The phase of a cell is proportional to its thickness, so both outlines are visible where cells overlap.
Modulation contrast renders the phase gradient along one direction as bright or dark; rims parallel to that direction vanish.
Cells outside the focal plane are blurred. These effects are linear in the phase and are computed by one multiplication in the
Fourier domain. Lengths are relative to the side of the image, so the image size does not change the scene.

The same generator state gives the same bytes.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from latens.data.instances import Layers, Sample, paint
from latens.shapes import Float, UInt8
from latens.systems.amodal.config import EmbryoConfig

FOCAL_PLANES = 4  # number of discrete levels of defocus
RELAXATION_STEPS = 60


class Cells(NamedTuple):
    """Spheres, in units of the side of the image; z increases towards the objective."""

    center: Float[np.ndarray, "N 3"]
    radius: Float[np.ndarray, "N"]
    zona: float  # inner radius of the zona pellucida


class Body(NamedTuple):
    """The outline of one object in a window of the image."""

    rows: slice
    columns: slice
    inside: Float[np.ndarray, "h w"]  # distance from the center relative to the outline; below 1 is inside
    radius: float  # pixels


def embryo(rng: np.random.Generator, config: EmbryoConfig) -> Sample:
    """One simulated image with between `cells[0]` and `cells[1]` blastomeres."""
    phase, layers = embryo_phase(rng, config)
    return Sample(camera(rng, modulation_contrast(rng, phase, config), config.size), layers)


def embryo_phase(rng: np.random.Generator, config: EmbryoConfig) -> tuple[Float[np.ndarray, "P H W"], Layers]:
    """The phase of an embryo that fills an image, one plane per level of defocus, and its masks."""
    size = config.size
    cells = pack(rng, config)
    middle = size * (0.5 + rng.uniform(-0.04, 0.04, 2))
    bodies = [body_of(rng, middle + size * cells.center[i, :2], size * cells.radius[i], size) for i in range(len(cells.radius))]
    amodal = np.zeros((len(bodies), size, size), dtype=bool)
    for mask, body in zip(amodal, bodies, strict=True):
        mask[body.rows, body.columns] = body.inside < 1
    layers = paint(amodal, -cells.center[:, 2])
    phase = _cell_phase(rng, cells, bodies, layers, config)
    phase[0] += _zona(rng, middle, cells.zona, size) + _distractors(rng, middle, cells.zona, size)
    return phase, layers


# --------------------------------------------------------------------------------------------------------- geometry


def pack(rng: np.random.Generator, config: EmbryoConfig) -> Cells:
    """Spheres in equilibrium inside the zona; their total volume is that of the zygote."""
    count = int(rng.integers(config.cells[0], config.cells[1] + 1))
    zona = rng.uniform(0.33, 0.39)
    share = rng.dirichlet(np.full(count, rng.choice([12.0, 40.0, 200.0])))  # from uneven to even cleavage
    radius = zona * rng.uniform(0.78, 0.9) * share ** (1 / 3)
    center = rng.normal(size=(count, 3)) * zona * np.array([0.35, 0.35, 0.2])
    wanted = (radius[:, None] + radius[None]) * (1 - config.overlap * rng.uniform(0.6, 1.4))
    for _ in range(RELAXATION_STEPS):
        offset = center[:, None] - center[None]
        distance = np.sqrt((offset**2).sum(2)) + np.eye(count)
        penetration = np.clip(wanted - distance, 0, None) * (1 - np.eye(count))
        center = center + 0.25 * (offset / distance[..., None] * penetration[..., None]).sum(1)
        center *= 0.985  # adhesion
        center[:, 2] *= 0.9  # gravity
        out = np.sqrt((center**2).sum(1))
        center *= np.minimum(1, np.clip(zona - radius, 1e-3, None) / np.maximum(out, 1e-6))[:, None]
    return Cells(center, radius, zona)


def body_of(rng: np.random.Generator, center: np.ndarray, radius: float, size: int, wave: float = 0.035) -> Body:
    """A disc whose outline is modulated by a low-order Fourier series; `center` is (row, column) in pixels."""
    half = radius * 1.3 + 3
    top, left = (int(max(0, min(size - 2, value - half))) for value in center)
    bottom, right = (int(max(start + 2, min(size, value + half))) for start, value in zip((top, left), center, strict=True))
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - center[0])
    x = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - center[1])
    distance = np.sqrt(y * y + x * x)
    cosine, sine = x / np.maximum(distance, 1e-3), y / np.maximum(distance, 1e-3)
    outline = np.ones_like(distance)
    wave_cos, wave_sin = cosine, sine
    for k in (2, 3, 4):
        wave_cos, wave_sin = wave_cos * cosine - wave_sin * sine, wave_sin * cosine + wave_cos * sine  # cos(k t), sin(k t)
        a, b = rng.normal(0, wave / (k - 1), 2).astype(np.float32)
        outline += a * wave_cos + b * wave_sin
    return Body(slice(top, bottom), slice(left, right), distance / (outline * np.float32(radius)), radius)


# ----------------------------------------------------------------------------------------------------------- optics


def _cell_phase(
    rng: np.random.Generator, cells: Cells, bodies: list[Body], layers: Layers, config: EmbryoConfig
) -> Float[np.ndarray, "P H W"]:
    """Phase of all cells, one plane per level of defocus, in increasing order."""
    size = config.size
    phase = np.zeros((FOCAL_PLANES, size, size), dtype=np.float32)
    focus = rng.uniform(-0.5, 0.5) * cells.zona
    defocus = np.abs(cells.center[:, 2] - focus) / cells.zona
    granules = _granules(rng, size)
    grain, rim = rng.uniform(0.015, 0.06), rng.uniform(0.01, 0.04)
    for index, body in enumerate(bodies):
        window = (body.rows, body.columns)
        square = np.clip(1 - body.inside**2, 0, None)
        thickness = np.sqrt(square) * np.float32(cells.radius[index])
        membrane = np.exp(-(((body.inside - 1) * np.float32(body.radius / (0.006 * size))) ** 2)) * np.float32(rim * 0.1)
        added = thickness * (1 + grain * granules[window] * np.minimum(1, 4 * square)) + membrane
        for _ in range(int(rng.choice([0, 0, 1, 1, 2]))):
            added += _organelle(rng, body, cells.radius[index])
        if config.translucency < 1:
            hidden = (layers.amodal[index] & ~layers.visible[index])[window]
            added = np.where(hidden, added * np.float32(config.translucency), added)
        plane = min(int(defocus[index] * 1.4 * FOCAL_PLANES), FOCAL_PLANES - 1)
        phase[(plane, *window)] += added
    return phase


def _organelle(rng: np.random.Generator, body: Body, radius: float) -> np.ndarray:
    """Phase of a nucleus or vacuole: a small sphere of another refractive index near the center of the cell."""
    height, width = body.inside.shape
    turn, out = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.45) * body.radius
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height / 2 + out * math.sin(turn))
    x = np.arange(width, dtype=np.float32)[None] - np.float32(width / 2 + out * math.cos(turn))
    small = np.float32(body.radius * rng.uniform(0.12, 0.3))
    profile = np.sqrt(np.clip(1 - (y * y + x * x) / small**2, 0, None))
    return np.asarray(profile * np.float32(radius * rng.choice([-0.08, 0.05, 0.1])))


def _granules(rng: np.random.Generator, size: int) -> Float[np.ndarray, "H W"]:
    """Smooth noise at two scales, of about unit variance."""
    total = np.zeros((size, size), dtype=np.float32)
    for step in (max(1, size // 160), max(2, size // 60)):
        cells = -(-size // step) + 1
        noise = rng.standard_normal((cells, cells), dtype=np.float32)
        total += noise.repeat(step, 0)[:size].repeat(step, 1)[:, :size]
    for axis in (0, 1):
        total = (total + np.roll(total, 1, axis) + np.roll(total, 2, axis)) * np.float32(1 / 3)
    return total


def _zona(rng: np.random.Generator, middle: np.ndarray, inner: float, size: int) -> Float[np.ndarray, "H W"]:
    """Phase of the zona pellucida, a transparent shell: strongest at its rims."""
    thick = rng.uniform(0.02, 0.045)
    stretch = 1 + rng.uniform(-0.04, 0.04)
    turn = rng.uniform(0, math.pi)
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5 - middle[0]) / size
    x = (np.arange(size, dtype=np.float32)[None] + 0.5 - middle[1]) / size
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    square = ((u * stretch) ** 2 + (v / stretch) ** 2).astype(np.float32)
    outer = np.sqrt(np.clip((inner + thick) ** 2 - square, 0, None))
    hollow = np.sqrt(np.clip(inner**2 - square, 0, None))
    return np.asarray((outer - hollow) * np.float32(rng.uniform(0.25, 0.55)))


def _distractors(rng: np.random.Generator, middle: np.ndarray, zona: float, size: int) -> Float[np.ndarray, "H W"]:
    """Phase of distractors: fragments inside the zona, debris anywhere."""
    phase = np.zeros((size, size), dtype=np.float32)
    fragments = int(rng.integers(0, 9)) if rng.random() < 0.5 else 0
    for number in range(fragments + int(rng.integers(0, 4))):
        inside = number < fragments
        small = rng.uniform(0.012, 0.04) if inside else rng.uniform(0.004, 0.015)
        turn, out = rng.uniform(0, 2 * math.pi), (zona - small) * math.sqrt(rng.random()) if inside else rng.uniform(0.45, 0.68)
        center = middle + size * out * np.array([math.sin(turn), math.cos(turn)])
        if not (0 < center[0] < size and 0 < center[1] < size):
            continue
        body = body_of(rng, center, small * size, size, wave=0.1)
        profile = np.sqrt(np.clip(1 - body.inside**2, 0, None)) * np.float32(small * rng.uniform(0.6, 1.2))
        phase[body.rows, body.columns] += profile
    return phase


def modulation_contrast(
    rng: np.random.Generator, phase: Float[np.ndarray, "P H W"], config: EmbryoConfig
) -> Float[np.ndarray, "H W"]:
    """Intensity around 0: phase gradient along the shear direction, Becke lines, weak absorption; defocus per plane.

    Phases are in units of `config.size` pixels; the square canvas may be larger.
    """
    size, side = config.size, phase.shape[1]
    ky = (np.fft.fftfreq(side) * 2 * np.pi).astype(np.float32)[:, None]
    kx = (np.fft.rfftfreq(side) * 2 * np.pi).astype(np.float32)[None]
    square = ky**2 + kx**2
    sharp, growth = rng.uniform(0.7, 1.3) * size / 500, rng.uniform(2.0, 5.0) * size / 500
    spectrum = np.zeros((side, side // 2 + 1), dtype=np.complex64)
    for plane, layer in enumerate(phase):
        blur = sharp + growth * plane / (FOCAL_PLANES - 1)
        spectrum += np.fft.rfft2(layer) * np.exp(-0.5 * blur**2 * square)
    turn = rng.normal(math.pi / 4, 0.25) + rng.choice([0, 0, math.pi])
    if rng.random() < 0.25:
        turn = rng.uniform(0, 2 * math.pi)
    slope = 1j * (kx * np.float32(math.cos(turn)) + ky * np.float32(math.sin(turn))) * np.float32(size)
    becke = square * np.float32(rng.uniform(-0.6, 0.6) * size * (size / 500))
    absorption = np.float32(-rng.uniform(0.0, 1.2))
    signal = np.fft.irfft2(spectrum * (slope + becke + absorption), s=(side, side)).astype(np.float32)
    gain = rng.uniform(0.16, 0.34) * config.contrast
    return np.asarray(np.tanh(signal * np.float32(gain)))


# ----------------------------------------------------------------------------------------------------------- camera


def camera(rng: np.random.Generator, signal: Float[np.ndarray, "H W"], size: int) -> UInt8[np.ndarray, "H W 3"]:
    """8-bit image: uneven illumination, noise, and sometimes the wall of the well, a time stamp and JPEG compression."""
    y = np.linspace(-1, 1, size, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size, dtype=np.float32)[None]
    a, b = rng.normal(0, 0.06, 2).astype(np.float32)
    light = 1 + a * x + b * y - np.float32(rng.uniform(0, 0.12)) * (x * x + y * y)
    if rng.random() < 0.3:  # the wall of the well
        wall = np.sqrt((x - np.float32(rng.normal(0, 0.1))) ** 2 + (y - np.float32(rng.normal(0, 0.1))) ** 2)
        light *= 1 - np.float32(rng.uniform(0.3, 0.8)) / (1 + np.exp(-(wall - np.float32(rng.uniform(1.0, 1.2))) * 40))
    level = rng.uniform(95, 160)
    canvas = level * light * (1 + np.float32(0.8) * signal)
    shot, read = rng.uniform(0.05, 0.35), rng.uniform(0.3, 2.5)
    noise = rng.standard_normal((size, size), dtype=np.float32)
    canvas += noise * np.sqrt(np.clip(canvas, 0, None) * np.float32(shot) + np.float32(read) ** 2)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        place = (int(size * rng.uniform(0.02, 0.75)), int(size * rng.choice([0.02, 0.94])))
        stamp = f"{rng.integers(0, 120)}.{rng.integers(0, 10)}h"
        ImageDraw.Draw(image).text(place, stamp, fill=int(rng.choice([0, 255])))
    if rng.random() < 0.5:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=int(rng.integers(60, 96)))
        image = Image.open(packed)
    return np.repeat(np.asarray(image)[:, :, None], 3, axis=2)
