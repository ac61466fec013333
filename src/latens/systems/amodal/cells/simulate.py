"""Simulated cells, and scenes without cells. Pixels are normalized as in `compose`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from latens.shapes import Bool, Float, UInt8
from latens.systems.amodal.cells.compose import LARGEST, MARGIN, SMALLEST, SPREAD, TYPICAL, Canvas, _hides, blend
from latens.systems.amodal.cells.fields import Kind, contrast_of
from latens.systems.amodal.cells.targets import Thing

COUNT = (1, 40)  # smallest and largest number of simulated cells of a canvas
SPINDLES = 0.25  # share of scenes of long cells
FLAT = 1 / 3  # share of scenes of simulated cells that have no texture
PHOTOGRAPHS, PAGES = 0.7, 0.06  # shares of scenes without cells: photographs, if there are any, and text
PHOTOGRAPH_SCALES = (1 / 9, 4.0)  # smallest and largest scale of a photograph: those at which images are probed, and more
POINTS = 48  # of a simulated outline
LETTERS = "ooeeaadgbpq0689BOQD%@iltns,.:; "  # round letters prevail


def simulated_canvas(rng: np.random.Generator, crop: int) -> Canvas:
    """Cells with random outlines, textures and overlaps on a random background."""
    side = crop + 2 * MARGIN
    kind: Kind = "fluorescent" if rng.random() < 0.6 else "stained"
    ground = (
        np.full(3, rng.uniform(0, 0.25)) if kind == "fluorescent" else rng.uniform(0.75, 1.0) + rng.normal(0, 0.03, 3)
    ).astype(np.float32)
    pixels = np.broadcast_to(ground, (side, side, 3)).copy()
    pixels += rng.uniform(0, 0.08) * smooth_noise(rng, side, rng.uniform(8, 60))[..., None]
    typical = float(np.clip(TYPICAL * math.exp(SPREAD * rng.standard_normal()), SMALLEST, LARGEST))
    aspect = rng.uniform(2.5, 8) if rng.random() < SPINDLES else rng.uniform(1, 1.6)
    rough = abs(rng.normal(0, 0.05))
    density = min(int(rng.integers(*COUNT)), int(0.9 * (side / typical) ** 2) + 1)
    ink = (
        np.full(3, rng.uniform(0.3, 1.0)) if kind == "fluorescent" else np.clip(ground * rng.uniform(0.2, 0.8, 3), 0, 1)
    ).astype(np.float32)
    grain, detail = rng.uniform(0, 0.3), rng.uniform(0.08, 0.4)
    opaque = rng.random() < 0.4
    things: list[Thing] = []
    for _ in range(density):
        mask = outline(
            rng, typical * math.exp(0.2 * rng.standard_normal()), aspect * math.exp(0.15 * rng.standard_normal()), rough
        )
        thing = Thing(
            int(rng.integers(-mask.shape[0] // 2, side)), int(rng.integers(-mask.shape[1] // 2, side)), mask, front=opaque
        )
        clipped = _clipped(thing, side)
        if clipped is None or any(_hides(clipped, other) for other in things) or _crowded(rng, clipped, things):
            continue
        things.append(clipped)
        texture = 1 + grain * smooth_noise(rng, max(mask.shape), max(1.0, detail * typical))[..., None]
        drawn = ink * np.float32(rng.uniform(0.6, 1.1)) * texture[: clipped.mask.shape[0], : clipped.mask.shape[1]]
        region = pixels[clipped.top : clipped.top + clipped.mask.shape[0], clipped.left : clipped.left + clipped.mask.shape[1]]
        blend(region, clipped.mask, drawn.astype(np.float32), ground, kind, front=opaque)
    blur = rng.uniform(0.3, 1.5)
    return Canvas(cv2.GaussianBlur(pixels, (0, 0), blur), things, kind, (0, 0, side, side))


def flat_canvas(rng: np.random.Generator, crop: int) -> Canvas:
    """Separate discs, ellipses and blobs of one gray with sharp borders, light on dark or dark on light.

    Without them a network takes everything flat for text or a photograph, because simulated and real cells have a texture.
    """
    side = crop + 2 * MARGIN
    kind: Kind = "fluorescent" if rng.random() < 0.5 else "stained"
    ground = np.full(3, rng.uniform(0, 0.25) if kind == "fluorescent" else rng.uniform(0.75, 1.0), dtype=np.float32)
    ink = ground + np.float32(rng.uniform(0.25, 1.0) if kind == "fluorescent" else -rng.uniform(0.25, 0.75))
    typical = float(np.clip(TYPICAL * math.exp(SPREAD * rng.standard_normal()), SMALLEST, LARGEST))
    aspect, rough = rng.choice([1.0, 1.0, 1.5, 3.0]), rng.choice([0.0, 0.0, 0.08])
    spread = rng.choice([0.0, 0.2])  # of the logarithm of the diameters
    pixels = np.broadcast_to(ground, (side, side, 3)).copy()
    things: list[Thing] = []
    for _ in range(min(int(rng.integers(*COUNT)), int(2 * (side / typical) ** 2) + 1)):
        mask = outline(rng, typical * math.exp(spread * rng.standard_normal()), aspect, rough)
        top, left = (int(rng.integers(-length // 2, side)) for length in mask.shape)
        thing = _clipped(Thing(top, left, mask), side)
        if thing is None or any(_near(thing, other) for other in things):
            continue
        things.append(thing)
        rows, columns = thing.mask.shape
        pixels[thing.top : thing.top + rows, thing.left : thing.left + columns][thing.mask] = ink
    return Canvas(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.1, 0.7)), things, kind, (0, 0, side, side))


def _near(thing: Thing, other: Thing) -> bool:
    """True if the windows of two objects overlap."""
    return (
        thing.top < other.top + other.mask.shape[0]
        and other.top < thing.top + thing.mask.shape[0]
        and thing.left < other.left + other.mask.shape[1]
        and other.left < thing.left + thing.mask.shape[1]
    )


def _crowded(rng: np.random.Generator, thing: Thing, others: Sequence[Thing]) -> bool:
    """True for most objects that overlap another, so that free ones prevail."""
    return any(_near(thing, other) for other in others) and bool(rng.random() < 0.5)


def outline(rng: np.random.Generator, size: float, aspect: float, rough: float) -> Bool[np.ndarray, "h w"]:
    """A filled random outline with the area of a disc of diameter `size`, in a tight window."""
    angle = np.linspace(0, 2 * math.pi, POINTS, endpoint=False)
    radius = np.ones(POINTS)
    for order in range(2, 6):
        radius += rough * rng.standard_normal() / order * 2 * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
    a, b = size / 2 * math.sqrt(aspect), size / 2 / math.sqrt(aspect)
    x, y = a * radius * np.cos(angle), b * radius * np.sin(angle)
    turn = rng.uniform(0, 2 * math.pi)
    points = np.stack((x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)), axis=1)
    points -= points.min(axis=0)
    extent = np.ceil(points.max(axis=0)).astype(int) + 1
    mask = np.zeros((extent[1], extent[0]), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def _clipped(thing: Thing, side: int) -> Thing | None:
    """The part of an object on the canvas; None for a few pixels."""
    top, left = max(thing.top, 0), max(thing.left, 0)
    bottom, right = min(thing.top + thing.mask.shape[0], side), min(thing.left + thing.mask.shape[1], side)
    if bottom - top < 2 or right - left < 2:
        return None
    mask = thing.mask[top - thing.top : bottom - thing.top, left - thing.left : right - thing.left]
    return Thing(top, left, mask, thing.front) if mask.sum() >= 12 else None


def empty_canvas(rng: np.random.Generator, photographs: Sequence[np.ndarray], crop: int) -> Canvas:
    """A photograph, an empty slide, a page of text, a texture or pure noise."""
    side, place = crop + 2 * MARGIN, rng.random()
    if photographs and place < PHOTOGRAPHS:
        pixels = _photograph(rng, photographs[int(rng.integers(len(photographs)))], side)
    elif place > 1 - PAGES:
        pixels = _page(rng, side)
    else:
        ground = rng.uniform(0, 1) + rng.normal(0, 0.03, 3) * (rng.random() < 0.5)
        pixels = np.broadcast_to(ground, (side, side, 3)).astype(np.float32)
        pixels = pixels + np.float32(rng.choice([0, 0.05, 0.3])) * smooth_noise(rng, side, rng.uniform(1, 60))[..., None]
        pixels = pixels + rng.choice([0.01, 0.05, 0.2]) * rng.standard_normal((side, side, 1)).astype(np.float32)
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
        if rng.random() < 0.3:
            _scratches(rng, pixels)
    return Canvas(pixels, [], None, (0, 0, side, side))


def simulated_image(rng: np.random.Generator, side: int) -> UInt8[np.ndarray, "S S 3"]:
    """An image of simulated cells."""
    return np.clip(simulated_canvas(rng, side - 2 * MARGIN).pixels * 200 + 20, 0, 255).astype(np.uint8)


def empty_images(rng: np.random.Generator, count: int, side: int = 384) -> list[UInt8[np.ndarray, "S S 3"]]:
    """Empty slides (vignette, sensor noise, faint texture, scratches, JPEG) and pure noise, in turn."""
    return [_noise(rng, side) if number % 2 else _empty_slide(rng, side) for number in range(count)]


def _noise(rng: np.random.Generator, side: int) -> UInt8[np.ndarray, "S S 3"]:
    """Noise of a random strength and grain, gray or colored."""
    noise = rng.standard_normal((side, side, 3 if rng.random() < 0.4 else 1), dtype=np.float32)
    grain = rng.choice([0.0, 0.0, 0.6, 1.0])
    if grain:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain), dtype=np.float32).reshape(noise.shape)
    level = rng.uniform(0.1, 0.9) + rng.uniform(0.05, 0.4) * noise / noise.std()
    return np.ascontiguousarray(np.broadcast_to(np.clip(level * 255, 0, 255), (side, side, 3)), dtype=np.uint8)


def _empty_slide(rng: np.random.Generator, side: int) -> UInt8[np.ndarray, "S S 3"]:
    tint = rng.normal(0, 0.03, 3) * (rng.random() < 0.5)
    v, u = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j] - rng.uniform(-0.4, 0.4, 2)[:, None, None]
    light = rng.uniform(0.03, 0.95) * (1 - rng.uniform(0, 0.25) * (v**2 + u**2))
    light = light + rng.uniform(0, 0.01) * smooth_noise(rng, side, rng.uniform(20, 120))
    pixels = light[..., None] + tint + rng.uniform(0.003, 0.03) * rng.standard_normal((side, side, 1))
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    if rng.random() < 0.3:
        _scratches(rng, pixels)
    levels = np.clip(pixels * 255, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, blob = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))])
        decoded = cv2.imdecode(blob, cv2.IMREAD_COLOR)
        assert decoded is not None
        levels = np.asarray(decoded, dtype=np.uint8)
    return levels


def _photograph(rng: np.random.Generator, photograph: np.ndarray, side: int) -> Float[np.ndarray, "C C 3"]:
    height, width = photograph.shape[:2]
    low, high = PHOTOGRAPH_SCALES
    factor = math.exp(rng.uniform(math.log(low), math.log(high)))
    need = [min(math.ceil(side / factor), length) for length in (height, width)]
    top, left = int(rng.integers(height - need[0] + 1)), int(rng.integers(width - need[1] + 1))
    window = photograph[top : top + need[0], left : left + need[1]]
    contrast = contrast_of(photograph if rng.random() < 0.5 else window)
    size = (min(side, max(2, round(need[1] * factor))), min(side, max(2, round(need[0] * factor))))
    part = cv2.resize(window, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    part = np.pad(part, ((0, side - size[1]), (0, side - size[0]), (0, 0)), mode="symmetric")  # mirrored as often as needed
    if rng.random() < 0.3:
        part = np.repeat(part.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    return contrast.apply(part)


def _page(rng: np.random.Generator, side: int) -> Float[np.ndarray, "C C 3"]:
    """Lines of letters, dark on light or light on dark."""
    page = np.zeros((side, side), dtype=np.uint8)
    size, slant = float(rng.uniform(0.3, 1.6)), int(rng.integers(0, 8))
    step, thick = round(30 * size) + int(rng.integers(1, 12)), int(rng.integers(1, 4))
    for row in range(int(rng.integers(0, step + 1)), side + step, step):
        letters = "".join(LETTERS[int(index)] for index in rng.integers(len(LETTERS), size=40))
        cv2.putText(page, letters, (int(rng.integers(-40, 20)), row), slant, size, 255, thick, cv2.LINE_AA)
    light, dark = rng.uniform(0.8, 1.1, 3), rng.uniform(-0.1, 0.2, 3)
    paper, ink = (light, dark) if rng.random() < 0.7 else (dark, light)
    share = page[..., None] / np.float32(255)
    return np.ascontiguousarray(paper + share * (ink - paper), dtype=np.float32)


def _scratches(rng: np.random.Generator, pixels: np.ndarray) -> None:
    """Lines, rings of grids and text, which are no cells."""
    for _ in range(int(rng.integers(1, 6))):
        color = tuple(float(v) for v in np.repeat(rng.uniform(-0.2, 1.2), 3))
        a, b = (tuple(int(v) for v in rng.integers(0, len(pixels), 2)) for _ in range(2))
        cv2.line(pixels, a, b, color, int(rng.integers(1, 5)))


def smooth_noise(rng: np.random.Generator, side: int, grain: float) -> Float[np.ndarray, "C C"]:
    """Noise of unit deviation and a typical length of `grain` pixels."""
    small = max(2, math.ceil(side / max(grain, 1.0)) + 1)
    noise = rng.standard_normal((small, small), dtype=np.float32)
    return np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
