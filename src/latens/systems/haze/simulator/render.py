"""Ray casting of street scenes: intersections with boxes and ellipsoids, then shading.

Lengths are meters; x is right, y is up, z is forward; the ground is y = 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]  # float32 where it is large

FAR = 400.0  # meters; beyond it is sky
GROUND, SKY = -1, -2  # indices of surfaces other than boxes


class Box(NamedTuple):
    """An axis-aligned box with a facade: cells of (width, height) meters hold a window that covers a share of the cell."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    color: tuple[float, float, float]
    windows: tuple[float, float, float] = (0.0, 0.0, 0.0)  # cell width, cell height, share; width 0: none
    glass: tuple[float, float, float] = (0.1, 0.12, 0.15)
    rough: float = 0.12  # contrast of the surface
    crown: bool = False  # use the ellipsoid inside the box


class Light(NamedTuple):
    """Sun direction (unit, from the scene towards it), its color, and that of the sky."""

    direction: tuple[float, float, float]
    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]


class Ground(NamedTuple):
    half_road: float  # meters from the middle to the curb
    pavement: float  # width of one pavement
    asphalt: float
    markings: float  # brightness of the paint
    dash: float  # length of a dash and of the gap after it
    verge: tuple[float, float, float]


# ---------------------------------------------------------------------------------------------------------- geometry


def trace(rays: Array, eye: Array, boxes: list[Box]) -> tuple[Array, np.ndarray[Any, np.dtype[np.int32]]]:
    """Distance along every ray to the nearest surface, and the index of that surface.

    A box is tested only inside its bounding rectangle in the image.
    """
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
    """Rows and columns whose rays may hit the box: all for a box next to the camera, None for a box behind it."""
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
    # Sine waves over the ray direction give the crown an irregular edge, like leaves.
    ragged = 0.5 + 0.5 * np.sin(rays[..., 0] * 900 / radii[0] + 3 * np.sin(rays[..., 1] * 700)) * np.sin(
        rays[..., 1] * 800 / radii[1]
    )
    return np.where((under > 0.25 * a * ragged * 0.6) & (hit > 0), hit, np.inf).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------- colors


def _noise(table: Array, u: Array, v: Array, fine: float, seed: int = 0) -> Array:
    """Roughness of a surface at meters (u, v): three octaves of interpolated noise, standard deviation about 0.6."""
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


def sky(rays: Array, light: Light, rng: np.random.Generator) -> Array:
    up = np.clip(rays[..., 1:2] * 2.2, 0, 1)
    color = np.array(light.horizon) * (1 - up) + np.array(light.zenith) * up
    table = noise_table(rng)
    height = np.maximum(rays[..., 1], 0.03)
    clouds = _noise(table, rays[..., 0] / height, rays[..., 2] / height, rng.uniform(0.3, 1.5))
    cover = np.clip((clouds - rng.uniform(-0.5, 1.5)) * 0.8, 0, 1)[..., None] * np.clip(rays[..., 1:2] * 8, 0, 1)
    result: Array = (color * (1 - cover) + np.array([0.95, 0.95, 0.95]) * cover * rng.uniform(0.8, 1)).astype(np.float32)
    return result


def paint_ground(color: Array, points: Array, where: Any, ground: Ground, boxes: list[Box], light: Light, table: Array) -> None:
    x, z = points[where][:, 0], points[where][:, 2]
    side = np.abs(x)
    base = np.full((x.size, 3), ground.asphalt, np.float32)
    pavement = (side > ground.half_road) & (side < ground.half_road + ground.pavement)
    tiles = 0.06 * (((np.floor(x / 0.6) + np.floor(z / 0.6)) % 2) - 0.5)
    base[pavement] = (ground.asphalt + 0.18 + tiles)[pavement, None]
    base[(side > ground.half_road) & (side < ground.half_road + 0.2)] = 0.6  # curb
    base[side >= ground.half_road + ground.pavement] = ground.verge
    dashed = (side < 0.08) & (z % (2 * ground.dash) < ground.dash)
    edge = (side > ground.half_road - 0.4) & (side < ground.half_road - 0.28)
    base[dashed | edge] = ground.markings
    rough = _noise(table, x, z, 2.0)
    shade = _shadow(x, z, boxes, light)
    base *= np.clip(1 + 0.13 * rough / (1 + 0.02 * z), 0.3, 1.7)[:, None]
    base *= np.array(light.ambient) + shade[:, None] * max(light.direction[1], 0) * np.array(light.sun)
    color[where] = base


def _shadow(x: Array, z: Array, boxes: list[Box], light: Light) -> Array:
    """1 in sunlight, 0 in the shadow of a box."""
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
        # The ray to the sun must be inside the box in height while it is inside in x and z.
        with np.errstate(divide="ignore", invalid="ignore"):
            ax, bx = _sorted_pair((box.low[0] - x[near]) / sx, (box.high[0] - x[near]) / sx)
            az, bz = _sorted_pair((box.low[2] - z[near]) / sz, (box.high[2] - z[near]) / sz)
        first = np.maximum(np.maximum(ax, az), box.low[1] / sy)
        last = np.minimum(np.minimum(bx, bz), box.high[1] / sy)
        blocked = (first < last) & (last > 0)
        lit[near] = np.where(blocked, 0, lit[near])
    return lit


def _sorted_pair(a: Array, b: Array) -> tuple[Array, Array]:
    """The smaller and the larger, element by element."""
    return np.minimum(a, b), np.maximum(a, b)


def paint_box(color: Array, points: Array, where: Any, box: Box, light: Light, table: Array, seed: int) -> None:
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
    base = np.tile(np.array(box.color, np.float32), (len(p), 1))
    base *= np.clip(1 + box.rough * _noise(table, u, v, 6.0 if box.crown else 3.0, seed), 0.2, 2)[:, None]
    wide, tall, share = box.windows
    if wide:
        margin = (1 - np.sqrt(share)) / 2
        cell_u, cell_v = (u / wide) % 1, (v / tall) % 1
        window = (np.abs(cell_u - 0.5) < 0.5 - margin) & (np.abs(cell_v - 0.5) < 0.5 - margin) & (v < high[1] - 0.5)
        lights = table[np.floor(v / tall).astype(int) & 255, (np.floor(u / wide).astype(int) + seed) & 255]
        base[window] = np.array(box.glass) * np.clip(1 + 0.5 * lights[window], 0.3, 2.5)[:, None]
    facing = np.clip(normal @ np.array(light.direction), 0, 1)[:, None]
    above = 0.75 + 0.25 * normal[:, 1:2]  # surfaces that face down receive less light from the sky
    color[where] = base * (np.array(light.ambient) * above + facing * np.array(light.sun))


def noise_table(rng: np.random.Generator) -> Array:
    return rng.standard_normal((256, 256)).astype(np.float32)
