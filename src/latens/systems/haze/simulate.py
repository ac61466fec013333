"""Procedural street scenes with exact depth: road, kerbs, pavements, buildings, cars, trees, lamps, sky.

A scene is a list of flat shapes in metres (boxes along the street, ellipsoids for crowns) seen by a level pinhole camera; every
pixel's ray is intersected with them, so that depth is exact. x is right, y is up, z is forward; the ground is y = 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]  # float32 where it is large

FAR = 400.0  # metres: what is farther is sky
GROUND, SKY = -1, -2  # indices of what is no box


class Street(NamedTuple):
    image: np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 3)
    depth: Array  # (H, W), metres along the ray; infinite in the sky


class Box(NamedTuple):
    """An axis-aligned box with a facade: cells of (width, height) metres hold a window that covers a share of the cell."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colour: tuple[float, float, float]
    windows: tuple[float, float, float] = (0.0, 0.0, 0.0)  # cell width, cell height, share; width 0: none
    glass: tuple[float, float, float] = (0.1, 0.12, 0.15)
    rough: float = 0.12  # contrast of the surface
    crown: bool = False  # the ellipsoid inside the box instead of the box


class Light(NamedTuple):
    """Sun direction (unit, from the scene towards it), its colour, and that of the sky."""

    direction: tuple[float, float, float]
    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]


class Ground(NamedTuple):
    half_road: float  # metres from the middle to the kerb
    pavement: float  # width of one pavement
    asphalt: float
    markings: float  # brightness of the paint
    dash: float  # length of a dash and of the gap after it
    verge: tuple[float, float, float]


def street(seed: int, size: tuple[int, int] = (256, 384)) -> Street:
    """The street scene of a seed at (height, width); the same arguments give the same bytes on the same machine."""
    rng = np.random.default_rng([seed, 0x57])
    ground = _ground(rng)
    boxes = _buildings(rng, ground) + _cars(rng, ground) + _trees(rng, ground) + _lamps(rng, ground)
    light = _light(rng)
    rays = _rays(rng, size)
    eye = np.array([rng.uniform(-0.4, 0.4) * ground.half_road, rng.uniform(1.2, 2.4), 0.0], np.float32)
    distance, owner = _trace(rays, eye, boxes)
    points = eye + rays * np.where(np.isfinite(distance), distance, 0)[..., None]
    colour = _sky(rays, light, rng)
    table = _noise_table(rng)
    _paint_ground(colour, points, owner == GROUND, ground, boxes, light, table)
    for index in np.unique(owner[owner >= 0]):
        _paint_box(colour, points, owner == index, boxes[index], light, table, int(index))
    return Street(_develop(colour, rng), distance.astype(np.float32))


# ------------------------------------------------------------------------------------------------------------- scene


def _ground(rng: np.random.Generator) -> Ground:
    verge = (0.2, 0.27, 0.12) if rng.random() < 0.5 else (0.45, 0.42, 0.38)
    return Ground(
        rng.uniform(3.2, 8), rng.uniform(1.5, 4), rng.uniform(0.14, 0.34), rng.uniform(0.6, 0.9), rng.uniform(2, 5), verge
    )


def _buildings(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    for side in (-1, 1):
        z = rng.uniform(-5, 15)
        height = rng.uniform(6, 22)
        while z < FAR:
            length = rng.uniform(8, 30)
            if rng.random() < 0.85:
                near = (
                    ground.half_road + ground.pavement + rng.uniform(0, 3) + (rng.uniform(4, 15) if rng.random() < 0.2 else 0)
                )
                top = max(3.5, height * rng.uniform(0.6, 1.5))
                low_x, high_x = sorted((side * near, side * (near + rng.uniform(8, 20))))
                cells = (
                    (rng.uniform(1.8, 4), rng.uniform(2.7, 3.6), rng.uniform(0.25, 0.6)) if rng.random() < 0.92 else (0, 0, 0)
                )
                bright = rng.uniform(0.02, 0.3)
                glass = (bright, bright * rng.uniform(1, 1.2), bright * rng.uniform(1, 1.5))
                colour = _wall(rng)
                boxes.append(Box((low_x, 0, z), (high_x, top, z + length), colour, cells, glass, rng.uniform(0.05, 0.25)))
                if rng.random() < 0.4:  # a roof of another colour, a little wider
                    roof = (rng.uniform(0.2, 0.5), rng.uniform(0.15, 0.3), rng.uniform(0.1, 0.3))
                    boxes.append(
                        Box((low_x - 0.3, top, z - 0.3), (high_x + 0.3, top + rng.uniform(0.3, 1.5), z + length + 0.3), roof)
                    )
            z += length + (rng.uniform(0, 2) if rng.random() < 0.7 else rng.uniform(4, 25))
    if rng.random() < 0.3:  # something across the end of the street
        z = rng.uniform(80, 300)
        boxes.append(Box((-60, 0, z), (60, rng.uniform(8, 35), z + 20), _wall(rng), (3, 3, 0.4)))
    return boxes


def _wall(rng: np.random.Generator) -> tuple[float, float, float]:
    """Plaster, brick, stone or concrete."""
    bright = rng.uniform(0.2, 0.8)
    tint = np.array([[1, 0.93, 0.8], [1, 0.6, 0.48], [0.95, 0.95, 0.9], [0.95, 1, 1.03], [1, 0.85, 0.6]])[rng.integers(5)]
    red, green, blue = np.clip(bright * tint * rng.uniform(0.92, 1.08, 3), 0.03, 0.95)
    return float(red), float(green), float(blue)


def _cars(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    for _ in range(rng.integers(2, 14)):
        lane = rng.choice([-1, 1]) * (
            ground.half_road - 1.1 if rng.random() < 0.6 else rng.uniform(0.3, 0.6) * ground.half_road
        )
        boxes += _car(rng, float(lane), float(6 + 120 * rng.random() ** 1.5))
    return boxes


def _car(rng: np.random.Generator, x: float, z: float) -> list[Box]:
    tall = rng.random() < 0.2  # a van
    long, wide, high = rng.uniform(3.8, 5), rng.uniform(0.82, 0.95), rng.uniform(0.75, 0.95) + 0.8 * tall
    paint = rng.uniform(0.03, 0.9) * (np.ones(3) if rng.random() < 0.6 else rng.uniform(0.1, 1, 3))
    colour = tuple(float(value) for value in np.clip(paint, 0.02, 0.95))
    glass = (0.05, 0.06, 0.07)
    body = Box((x - wide, 0.3, z), (x + wide, high, z + long), colour, rough=0.03)  # type: ignore[arg-type]
    front, back = z + 0.15 * long, z + (0.95 if tall else 0.75) * long
    cabin = Box((x - 0.9 * wide, high, front), (x + 0.9 * wide, high + 0.55, back), glass, rough=0.05)
    roof = Box((x - 0.85 * wide, high + 0.55, front + 0.1), (x + 0.85 * wide, high + 0.62, back - 0.1), colour, rough=0.03)  # type: ignore[arg-type]
    wheels = [
        Box((x + s * wide - 0.12, 0, z + p * long), (x + s * wide + 0.12, 0.62, z + p * long + 0.6), (0.03, 0.03, 0.03))
        for s in (-0.9, 0.9)
        for p in (0.12, 0.72)
    ]
    lamps = [
        Box((x + s * wide - 0.15, 0.6, z - 0.03), (x + s * wide + 0.15, 0.75, z + 0.05), (0.6, 0.03, 0.03), rough=0)
        for s in (-0.8, 0.8)
    ]
    return [body, cabin, roof, *wheels, *lamps]


def _trees(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    if rng.random() < 0.3:
        return boxes
    for side in (-1, 1):
        z, spacing = rng.uniform(3, 20), rng.uniform(7, 25)
        while z < 160:
            if rng.random() < 0.7:
                x = side * (ground.half_road + rng.uniform(0.6, ground.pavement + 2))
                trunk, radius, tall = rng.uniform(1.8, 3.5), rng.uniform(1.2, 3), rng.uniform(1.5, 3.5)
                thick = rng.uniform(0.1, 0.25)
                green = (rng.uniform(0.08, 0.3), rng.uniform(0.16, 0.34), rng.uniform(0.03, 0.12))
                boxes.append(Box((x - thick, 0, z - thick), (x + thick, trunk + 1, z + thick), (0.2, 0.15, 0.11), rough=0.3))
                low, high = (x - radius, trunk, z - radius), (x + radius, trunk + 2 * tall, z + radius)
                boxes.append(Box(low, high, green, rough=0.7, crown=True))
            z += spacing * rng.uniform(0.6, 1.4)
    return boxes


def _lamps(rng: np.random.Generator, ground: Ground) -> list[Box]:
    boxes: list[Box] = []
    z, side = rng.uniform(5, 25), rng.choice([-1, 1])
    grey = rng.uniform(0.1, 0.5)
    while z < 150 and rng.random() < 0.95:
        x, top = side * (ground.half_road + 0.5), rng.uniform(4, 8)
        boxes.append(Box((x - 0.07, 0, z - 0.07), (x + 0.07, top, z + 0.07), (grey, grey, grey)))
        if rng.random() < 0.5:
            sign = [(0.05, 0.15, 0.5), (0.7, 0.08, 0.06), (0.8, 0.8, 0.75)][rng.integers(3)]
            boxes.append(Box((x - 0.35, 2.1, z - 0.12), (x + 0.35, 2.8, z - 0.08), sign))
        z += rng.uniform(12, 35)
        side = -side if rng.random() < 0.3 else side
    return boxes


def _light(rng: np.random.Generator) -> Light:
    overcast, height, around = rng.random(), rng.uniform(0.15, 1.2), rng.uniform(0, 2 * np.pi)
    direction = (float(np.cos(height) * np.sin(around)), float(np.sin(height)), float(np.cos(height) * np.cos(around)))
    warmth = np.array([1, 0.75 + 0.2 * np.sin(height), 0.5 + 0.45 * np.sin(height)])
    sun = (1 - overcast) * rng.uniform(0.6, 1.1) * warmth
    ambient = rng.uniform(0.35, 0.6) * np.array([0.95, 1.0, 1.0 + 0.12 * (1 - overcast)])
    grey = rng.uniform(0.55, 1.0)
    zenith = overcast * grey + (1 - overcast) * np.array([0.22, 0.4, 0.75]) * rng.uniform(0.7, 1.2)
    horizon = overcast * grey + (1 - overcast) * np.array([0.75, 0.83, 0.92])
    return Light(direction, *(tuple(map(float, v)) for v in (sun, ambient, zenith * np.ones(3), horizon * np.ones(3))))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- geometry


def _rays(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Unit directions (H, W, 3), the camera turned a little left or right, up or down."""
    height, width = size
    focal = rng.uniform(0.7, 1.3) * width
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    horizon = height * rng.uniform(0.38, 0.6)
    middle = width * rng.uniform(0.3, 0.7)
    rays = np.stack([(columns - middle) / focal, (horizon - rows) / focal, np.ones_like(rows)], -1)
    unit: Array = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def _trace(rays: Array, eye: Array, boxes: list[Box]) -> tuple[Array, np.ndarray[Any, np.dtype[np.int32]]]:
    """Distance along every ray to the nearest surface, and whose it is. A box is tested inside its rectangle of the picture."""
    with np.errstate(divide="ignore"):
        inverse = 1 / np.where(np.abs(rays) < 1e-7, np.float32(1e-7), rays)
    down = np.where(rays[..., 1] < 0, -eye[1] * inverse[..., 1], np.inf).astype(np.float32)
    distance = np.where(down < FAR, down, np.inf).astype(np.float32)
    owner = np.where(np.isfinite(distance), GROUND, SKY).astype(np.int32)
    for index, box in enumerate(boxes):
        part = _rectangle(rays, eye, box)
        if part is None:
            continue
        hit = (_hit_crown if box.crown else _hit_box)(rays[part], inverse[part], eye, box)
        nearer = hit < distance[part]
        distance[part][nearer] = hit[nearer]
        owner[part][nearer] = index
    return distance, owner


def _rectangle(rays: Array, eye: Array, box: Box) -> tuple[slice, slice] | None:
    """Rows and columns that may see the box; all of them for one beside the camera, None for one behind it."""
    if box.high[2] <= 0.1:
        return None
    if box.low[2] <= 0.5:
        return slice(None), slice(None)
    slopes_x = rays[0, :, 0] / rays[0, :, 2]
    slopes_y = rays[:, 0, 1] / rays[:, 0, 2]
    spans = []
    for axis, slopes in ((0, slopes_x), (1, slopes_y)):
        ends = [(edge - eye[axis]) / z for edge in (box.low[axis], box.high[axis]) for z in (box.low[2], box.high[2])]
        inside = np.nonzero((slopes >= min(ends)) & (slopes <= max(ends)))[0]
        if inside.size == 0:
            return None
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return spans[1], spans[0]


def _hit_box(rays: Array, inverse: Array, eye: Array, box: Box) -> Array:
    near = (np.array(box.low, np.float32) - eye) * inverse
    far = (np.array(box.high, np.float32) - eye) * inverse
    entry = np.minimum(near, far).max(-1)
    leave = np.maximum(near, far).min(-1)
    return np.where((entry <= leave) & (entry > 0), entry, np.inf).astype(np.float32)


def _hit_crown(rays: Array, inverse: Array, eye: Array, box: Box) -> Array:
    low, high = np.array(box.low, np.float32), np.array(box.high, np.float32)
    radii = (high - low) / 2
    start, step = (eye - (low + high) / 2) / radii, rays / radii
    a, b, c = (step * step).sum(-1), (step * start).sum(-1), (start * start).sum() - 1
    under = b * b - a * c
    hit = (-b - np.sqrt(np.maximum(under, 0))) / a
    # Leaves: the edge of the crown is ragged, by waves over the direction.
    ragged = 0.5 + 0.5 * np.sin(rays[..., 0] * 900 / radii[0] + 3 * np.sin(rays[..., 1] * 700)) * np.sin(
        rays[..., 1] * 800 / radii[1]
    )
    return np.where((under > 0.25 * a * ragged * 0.6) & (hit > 0), hit, np.inf).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------- colours


def _noise_table(rng: np.random.Generator) -> Array:
    return rng.standard_normal((256, 256)).astype(np.float32)


def _noise(table: Array, u: Array, v: Array, fine: float, seed: int = 0) -> Array:
    """Roughness of a surface at metres (u, v): three octaves of interpolated noise, standard deviation about 0.6."""
    total = np.zeros_like(u)
    for octave in range(3):
        scale = fine * 2.0 ** (2 * octave - 2)
        x, y = u * scale + 17 * octave + 31 * seed, v * scale + 11 * octave + 7 * seed
        fx, fy = np.floor(x), np.floor(y)
        ix, iy = fx.astype(np.int64), fy.astype(np.int64)
        ax, ay = (x - fx).astype(np.float32), (y - fy).astype(np.float32)
        top = table[iy & 255, ix & 255] * (1 - ax) + table[iy & 255, (ix + 1) & 255] * ax
        bottom = table[(iy + 1) & 255, ix & 255] * (1 - ax) + table[(iy + 1) & 255, (ix + 1) & 255] * ax
        total += (top * (1 - ay) + bottom * ay) * 0.6**octave
    return total


def _sky(rays: Array, light: Light, rng: np.random.Generator) -> Array:
    up = np.clip(rays[..., 1:2] * 2.2, 0, 1)
    colour = np.array(light.horizon) * (1 - up) + np.array(light.zenith) * up
    table = _noise_table(rng)
    height = np.maximum(rays[..., 1], 0.03)
    clouds = _noise(table, rays[..., 0] / height, rays[..., 2] / height, rng.uniform(0.3, 1.5))
    cover = np.clip((clouds - rng.uniform(-0.5, 1.5)) * 0.8, 0, 1)[..., None] * np.clip(rays[..., 1:2] * 8, 0, 1)
    result: Array = (colour * (1 - cover) + np.array([0.95, 0.95, 0.95]) * cover * rng.uniform(0.8, 1)).astype(np.float32)
    return result


def _paint_ground(
    colour: Array, points: Array, where: Any, ground: Ground, boxes: list[Box], light: Light, table: Array
) -> None:
    x, z = points[where][:, 0], points[where][:, 2]
    side = np.abs(x)
    base = np.full((x.size, 3), ground.asphalt, np.float32)
    pavement = (side > ground.half_road) & (side < ground.half_road + ground.pavement)
    tiles = 0.06 * (((np.floor(x / 0.6) + np.floor(z / 0.6)) % 2) - 0.5)
    base[pavement] = (ground.asphalt + 0.18 + tiles)[pavement, None]
    base[(side > ground.half_road) & (side < ground.half_road + 0.2)] = 0.6  # kerb
    base[side >= ground.half_road + ground.pavement] = ground.verge
    dashed = (side < 0.08) & (z % (2 * ground.dash) < ground.dash)
    edge = (side > ground.half_road - 0.4) & (side < ground.half_road - 0.28)
    base[dashed | edge] = ground.markings
    rough = _noise(table, x, z, 2.0)
    shade = _shadow(x, z, boxes, light)
    base *= np.clip(1 + 0.13 * rough / (1 + 0.02 * z), 0.3, 1.7)[:, None]
    base *= np.array(light.ambient) + shade[:, None] * max(light.direction[1], 0) * np.array(light.sun)
    colour[where] = base


def _shadow(x: Array, z: Array, boxes: list[Box], light: Light) -> Array:
    """1 in the sun, 0 in the shadow of a box; the blurred dark under a car is part of it."""
    lit = np.ones_like(x)
    sx, sy, sz = light.direction
    for box in boxes:
        if box.low[2] > 150:
            continue
        top = box.high[1] / max(sy, 0.1)
        low_x, high_x = min(box.low[0], box.low[0] - sx * top), max(box.high[0], box.high[0] - sx * top)
        low_z, high_z = min(box.low[2], box.low[2] - sz * top), max(box.high[2], box.high[2] - sz * top)
        near = (x > low_x) & (x < high_x) & (z > low_z) & (z < high_z)
        if not near.any():
            continue
        # Along the way to the sun the height s sy must be inside the box while x and z are.
        with np.errstate(divide="ignore", invalid="ignore"):
            ax, bx = sorted_pair((box.low[0] - x[near]) / sx, (box.high[0] - x[near]) / sx)
            az, bz = sorted_pair((box.low[2] - z[near]) / sz, (box.high[2] - z[near]) / sz)
        first = np.maximum(np.maximum(ax, az), box.low[1] / sy)
        last = np.minimum(np.minimum(bx, bz), box.high[1] / sy)
        blocked = (first < last) & (last > 0)
        lit[near] = np.where(blocked, 0, lit[near])
    return lit


def sorted_pair(a: Array, b: Array) -> tuple[Array, Array]:
    """The smaller and the larger, element by element."""
    return np.minimum(a, b), np.maximum(a, b)


def _paint_box(colour: Array, points: Array, where: Any, box: Box, light: Light, table: Array, seed: int) -> None:
    p = points[where]
    low, high = np.array(box.low), np.array(box.high)
    if box.crown:
        normal = (p - (low + high) / 2) / ((high - low) / 2) ** 2
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        u, v = p[:, 0] + p[:, 2], p[:, 1]
    else:
        gaps = np.concatenate([np.abs(p - low), np.abs(p - high)], 1)
        face = gaps.argmin(1)
        normal = np.zeros_like(p)
        normal[np.arange(len(p)), face % 3] = np.where(face < 3, -1, 1)
        across = np.where(face % 3 == 0, p[:, 2], p[:, 0])
        u, v = across, np.where(face % 3 == 1, p[:, 2], p[:, 1])
    base = np.tile(np.array(box.colour, np.float32), (len(p), 1))
    base *= np.clip(1 + box.rough * _noise(table, u, v, 6.0 if box.crown else 3.0, seed), 0.2, 2)[:, None]
    wide, tall, share = box.windows
    if wide:
        margin = (1 - np.sqrt(share)) / 2
        cell_u, cell_v = (u / wide) % 1, (v / tall) % 1
        window = (np.abs(cell_u - 0.5) < 0.5 - margin) & (np.abs(cell_v - 0.5) < 0.5 - margin) & (v < high[1] - 0.5)
        lights = table[np.floor(v / tall).astype(int) & 255, (np.floor(u / wide).astype(int) + seed) & 255]
        base[window] = np.array(box.glass) * np.clip(1 + 0.5 * lights[window], 0.3, 2.5)[:, None]
    facing = np.clip(normal @ np.array(light.direction), 0, 1)[:, None]
    above = 0.75 + 0.25 * normal[:, 1:2]  # what faces down sees less sky
    colour[where] = base * (np.array(light.ambient) * above + facing * np.array(light.sun))


def _develop(colour: Array, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Exposure, white balance, sensor noise and gamma of a camera."""
    exposed = colour * rng.uniform(0.75, 1.35) * rng.uniform(0.94, 1.06, 3)
    noisy = exposed + rng.normal(0, rng.uniform(0.001, 0.008), colour.shape)
    softened = np.where(noisy > 0.8, 0.8 + 0.2 * np.tanh((noisy - 0.8) / 0.2), noisy)
    developed: np.ndarray[Any, np.dtype[np.uint8]] = np.rint(255 * np.clip(softened, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return developed
