"""Photographs of simulated trays: 1280 x 1024 pixels, gray or color, with cell centers, leaves and moss as ground truth.

Uses numpy and Pillow only. The geometry is a homography from cell units to pixels, where (j, i) is the center of the cell in
row i and column j, followed by a slight radial distortion.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from latens.data.images import Pixels
from latens.shapes import Bool, Float, Int
from latens.systems.seedlings.simulator.plants import Leaf, Plants, Preset, draw_plants, is_visible, leaves

WIDTH, HEIGHT = 1280, 1024
SUPERSAMPLE = 1.2  # width of the soft edge of a leaf in pixels
LEAF_TINT, MOSS_TINT, SOIL_TINT = (0.62, 1.0, 0.38), (0.85, 1.1, 0.6), (1.1, 0.98, 0.8)  # red, green, blue
WATERED = 7  # day on which the soil is wet


class Camera(NamedTuple):
    """Geometry and exposure of one photograph."""

    pitch: float = 70.0  # distance of neighboring cells in pixels
    rotation: float = 0.0  # degrees, counterclockwise
    shift: tuple[float, float] = (0.0, 0.0)  # offset of the tray from the image center in pixels
    tilt: tuple[float, float] = (0.0, 0.0)  # perspective: relative change of scale across the tray
    barrel: float = 0.0  # radial distortion at the corner, as a share of the radius
    exposure: float = 1.0
    gamma: float = 1.0
    blur: float = 0.7  # pixels
    noise: float = 3.0  # gray values


class TrayPhotograph(NamedTuple):
    """Simulated photograph with its ground truth."""

    pixels: Pixels  # (1024, 1280) gray, or (1024, 1280, 3)
    centers: Float[np.ndarray, "rows cols 2"]  # centers of the cells (x, y) in pixels
    owner: Int[np.ndarray, "1024 1280"]  # index of the plant with the topmost leaf; -1: none
    moss: Bool[np.ndarray, "1024 1280"]
    seen: Bool[np.ndarray, "rows cols"]  # emerged on or before this day
    plants: Plants
    day: float


def draw_camera(seed: int, tray: int, day: float, *, rotation: float = 3.0) -> Camera:
    """Random camera of one photograph, rotated by up to `rotation` degrees."""
    rng = np.random.default_rng([seed, tray, round(100 * day), 13])
    return Camera(
        pitch=rng.uniform(66, 72),
        rotation=rng.uniform(-rotation, rotation),
        shift=(rng.uniform(-25, 25), rng.uniform(-30, 30)),
        tilt=(rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)),
        barrel=rng.uniform(0, 0.006),
        exposure=float(np.exp(0.10 * rng.standard_normal())),
        gamma=float(np.exp(0.06 * rng.standard_normal())),
        blur=rng.uniform(0.5, 1.1),
        noise=rng.uniform(2.0, 4.0),
    )


def photograph(
    seed: int,
    tray: int,
    day: float,
    *,
    rows: int = 10,
    cols: int = 15,
    preset: Preset = "thesis",
    success: float | None = None,
    camera: Camera | None = None,
    keep: Bool[np.ndarray, "rows cols"] | None = None,
    color: bool = False,
) -> TrayPhotograph:
    """Photograph of one tray on one day. Plants depend on (seed, tray) only, camera and soil also on the day.

    `success` is the expected share of grades 5 and 6. Cells outside the mask `keep` are empty. Equal arguments give equal
    pixels.
    """
    plants = draw_plants(seed, tray, rows * cols, preset, **({} if success is None else {"success": success}))
    if keep is not None:
        plants = plants._replace(emergence=np.where(keep.ravel(), plants.emergence, np.inf))
    camera = camera or draw_camera(seed, tray, day)
    rng = np.random.default_rng([seed, tray, round(100 * day), 17])
    place = Place(camera, rows, cols)
    soil = _soil(rng, place, wet=day >= WATERED)
    moss = _moss(rng, plants, place, day)
    light, owner = _draw_leaves(plants, place, day, soil + 0.16 * moss)
    pixels = _develop(rng, light, camera) if not color else _develop_color(rng, light, owner, moss > 0.3, camera)
    grid = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).astype(float)
    seen = is_visible(plants, day).reshape(rows, cols)
    return TrayPhotograph(pixels, place(grid), owner, moss > 0.3, seen, plants, day)


class Place:
    """Map from (column, row) in cell units, with shape (..., 2), to (x, y) in pixels."""

    def __init__(self, camera: Camera, rows: int, cols: int) -> None:
        self.camera, self.rows, self.cols = camera, rows, cols
        self.turn = np.deg2rad(-camera.rotation)
        self.middle = np.array([(cols - 1) / 2, (rows - 1) / 2])

    def __call__(self, cells: np.ndarray) -> np.ndarray:
        local = np.asarray(cells, float) - self.middle
        tilted = local / (1 + (local * np.array(self.camera.tilt) / np.array([self.cols, self.rows])).sum(-1, keepdims=True))
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = self.camera.pitch * np.stack(
            [cos * tilted[..., 0] - sin * tilted[..., 1], sin * tilted[..., 0] + cos * tilted[..., 1]], axis=-1
        )
        moved = turned + np.array(self.camera.shift)
        radius = (moved**2).sum(-1, keepdims=True) / (WIDTH**2 / 4 + HEIGHT**2 / 4)
        placed: np.ndarray = moved * (1 - self.camera.barrel * radius) + np.array([WIDTH / 2, HEIGHT / 2])
        return placed


def _smooth_noise(rng: np.random.Generator, cell: int) -> np.ndarray:
    """Noise of about unit variance with grains of `cell` pixels."""
    small = rng.standard_normal((HEIGHT // cell + 3, WIDTH // cell + 3)).astype(np.float32)
    large = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR) if cell > 1 else None
    return small[:HEIGHT, :WIDTH] if large is None else np.asarray(large) * 1.5


def _soil(rng: np.random.Generator, place: Place, *, wet: bool) -> np.ndarray:
    """Reflectance of soil with perlite, rim of the tray, and darker bench, with vignetting."""
    soil = 0.145 + 0.020 * _smooth_noise(rng, 1) + 0.018 * _smooth_noise(rng, 3) + 0.016 * _smooth_noise(rng, 40)
    if wet:
        soil *= 0.82
    soil = soil.astype(np.float32)
    for _ in range(int(rng.integers(30, 90))):  # perlite
        x, y, size = int(rng.integers(2, WIDTH - 4)), int(rng.integers(2, HEIGHT - 4)), int(rng.integers(1, 4))
        soil[y : y + size, x : x + size] = rng.uniform(0.35, 0.75)
    cells = np.array(
        [[-0.75, -0.75], [place.cols - 0.25, -0.75], [place.cols - 0.25, place.rows - 0.25], [-0.75, place.rows - 0.25]]
    )
    inner, outer = Image.new("L", (WIDTH, HEIGHT)), Image.new("L", (WIDTH, HEIGHT))
    from PIL import ImageDraw

    ImageDraw.Draw(inner).polygon([tuple(point) for point in place(cells)], fill=255)
    middle = place.middle
    ImageDraw.Draw(outer).polygon([tuple(p) for p in place(middle + (cells - middle) * 1.018)], fill=255)
    inside, rim = np.asarray(inner) > 0, np.asarray(outer) > 0
    soil = np.where(inside, soil, np.where(rim, 0.21, 0.07 + 0.01 * _smooth_noise(rng, 2)))
    across, down = np.linspace(-1, 1, WIDTH, dtype=np.float32), np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    shaded: np.ndarray = soil * (np.float32(1.04) - np.float32(0.16) * (across**2 + down**2))
    return shaded


def _moss(rng: np.random.Generator, plants: Plants, place: Place, day: float) -> np.ndarray:
    """Strength of moss and algae in [0, 1]."""
    made = np.zeros((HEIGHT, WIDTH), np.float32)
    for index in np.flatnonzero(plants.moss < day):
        row, col = divmod(int(index), place.cols)
        middle = rng.uniform(-0.22, 0.22, 2)
        age = min(day - float(plants.moss[index]), 3.0)
        for _ in range(int(5 + 7 * age)):
            x, y = place(np.array([col, row]) + middle + 0.13 * rng.standard_normal(2))
            radius = rng.uniform(2.0, 5.0)
            _blend(made, x, y, radius, radius, 0.0, 1.0, rng.uniform(0.4, 1.0), None, 0)
    return made


def _draw_leaves(plants: Plants, place: Place, day: float, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ground with all leaves, stronger plants on top, and the index of the topmost plant of each pixel."""
    light, owner = ground.astype(np.float32), np.full((HEIGHT, WIDTH), -1, np.int32)
    pitch = place.camera.pitch
    for index in np.argsort(plants.growth, kind="stable"):
        row, col = divmod(int(index), place.cols)
        for leaf in leaves(plants, int(index), day):
            _draw_leaf(light, owner, leaf, place(np.array([col + leaf.x, row + leaf.y])), pitch, place.turn, int(index))
    return light, owner


def _draw_leaf(light: np.ndarray, owner: np.ndarray, leaf: Leaf, at: np.ndarray, pitch: float, turn: float, index: int) -> None:
    length, width, angle = pitch * leaf.length, pitch * leaf.width, leaf.angle + turn
    _blend(light, at[0] + 2, at[1] + 3, length, width, angle, 0.05, 0.5, None, 0)  # shadow
    _blend(light, at[0], at[1], length, width, angle, leaf.light, 1.0, owner, index)


def _blend(
    image: np.ndarray, x: float, y: float, length: float, width: float, angle: float, value: float, weight: float,
    owner: np.ndarray | None, index: int,
) -> None:  # fmt: skip
    """Blends a soft ellipse into the image. Leaves (with `owner`) are darker along the midrib."""
    half = int(length + 3)
    left, top = max(int(x) - half, 0), max(int(y) - half, 0)
    right, bottom = min(int(x) + half + 2, WIDTH), min(int(y) + half + 2, HEIGHT)
    if left >= right or top >= bottom:
        return
    dx = np.arange(left, right, dtype=np.float32) - np.float32(x)
    dy = (np.arange(top, bottom, dtype=np.float32) - np.float32(y))[:, None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    radius = np.sqrt((along / np.float32(length)) ** 2 + (across / np.float32(width)) ** 2)
    cover = np.clip((1 - radius) * np.float32(min(length, width) / SUPERSAMPLE) + np.float32(0.5), 0, 1)
    window = image[top:bottom, left:right]
    shade: np.ndarray | np.float32 = np.float32(value)
    if owner is not None:
        shade = shade * (
            np.float32(1.06) - np.float32(0.16) * radius - np.float32(0.14) * (np.abs(across) < 0.08 * width + 0.5)
        )
        owner[top:bottom, left:right][cover > 0.5] = index
    window += np.float32(weight) * cover * (shade - window)


def _develop(rng: np.random.Generator, light: np.ndarray, camera: Camera) -> Pixels:
    """Applies exposure, gamma, blur and sensor noise; returns 8-bit values."""
    exposed = 255 * np.clip(camera.exposure * light, 0, 1) ** np.float32(camera.gamma)
    blurred = np.asarray(Image.fromarray(exposed.astype(np.uint8)).filter(ImageFilter.GaussianBlur(camera.blur)))
    noisy = blurred + camera.noise * rng.standard_normal(blurred.shape, dtype=np.float32)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _develop_color(rng: np.random.Generator, light: np.ndarray, owner: np.ndarray, moss: np.ndarray, camera: Camera) -> Pixels:
    """Color photograph with green leaves, darker green moss and brown soil."""
    leaf = (owner >= 0)[..., None]
    tint = np.where(
        leaf,
        np.array(LEAF_TINT, np.float32),
        np.where(moss[..., None], np.array(MOSS_TINT, np.float32), np.array(SOIL_TINT, np.float32)),
    )
    planes = [_develop(rng, light * tint[..., plane], camera) for plane in range(3)]
    return np.stack(planes, axis=-1)
