"""Depth maps of common data sets and of plain folders, as float32 arrays (H, W).

Depth is in meters if the format defines them, otherwise relative; larger is farther, and `inf` is sky. Holes (pixels without a
measurement) are filled from their surroundings.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from latens.data.depth_holes import fill_holes
from latens.data.exr import read_exr
from latens.data.files import read_bytes
from latens.data.image_arrays import ROW_BLOCK, plain_array
from latens.data.limits import current_limits, hint, too_many_pixels
from latens.data.npy import load_array
from latens.data.tiff import FLOAT, first_values, page_kind
from latens.errors import InputError, LatensError, LimitExceeded, UnreadableInput, UsageError

Depth: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

NO_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # raised by Pillow for other files
DEPTH_ENDINGS = frozenset({".png", ".npy", ".exr", ".tif", ".tiff", ".pgm", ".pfm"})
COMPANIONS = ("_depth", "_depth256")  # after the name of an image, in the names of its depth maps
FILE_LIMIT = 2**30  # bytes
IMAGE_FORMATS = ("PNG", "TIFF", "PPM")  # image formats of depth maps
MIN_DEPTH = 1e-6  # lower bound of the largest depth of a map
logger = logging.getLogger(__name__)

KITTI_UNITS = 256  # units per meter
UNLIKELY_METERS = 300.0  # median depth of a map whose unit is probably smaller
QUANTILE = 0.999  # quantile of depth that defines the largest depth of a scene; larger values are often outliers


@dataclass(frozen=True, kw_only=True)
class DepthFormat:
    """Conversion of stored values to depth: meters = value * scale, or for disparities scale / (value - offset)."""

    scale: float = 1.0  # meters per stored unit; for disparities, focal length * baseline * units per pixel
    hole: float | None = 0.0  # stored value of pixels without a measurement; NaN: NaN and 0; None: no holes
    sky: float | None = None  # this and larger stored values are sky
    disparity: bool = False
    offset: float = 0.0
    relative: bool = False  # the unit is unknown
    channel: str | None = None  # of an EXR file; None: by its name


FORMATS: Mapping[str, DepthFormat] = MappingProxyType(
    {
        # 16-bit PNG rendered from a point cloud: 200 units per meter; the largest value has no point and is mostly sky.
        "apolloscape": DepthFormat(scale=1 / 200, sky=65535),
        "kitti": DepthFormat(scale=1 / KITTI_UNITS),
        "nyu": DepthFormat(scale=1 / 1000),  # 16-bit millimeters
        "nyu8": DepthFormat(scale=1 / 25.5),  # 8-bit, 255 is ten meters
        "meters": DepthFormat(),  # NPY and EXR
        "meters_nan": DepthFormat(hole=math.nan),
        "relative": DepthFormat(relative=True),
        "inverse": DepthFormat(hole=None, disparity=True, relative=True),  # MiDaS, Depth Anything: larger is nearer
    }
)


class Camera(NamedTuple):
    """Camera parameters that convert disparity to distance."""

    focal: float  # pixels
    baseline: float  # meters


def format_of(name: str) -> DepthFormat:
    """The format with this name. Raises UsageError for an unknown name."""
    if name not in FORMATS:
        raise UsageError(f"there is no depth format '{name}'", hint=f"known: {', '.join(FORMATS)}")
    return FORMATS[name]


def default_format(source: str | Path | np.ndarray[Any, Any]) -> DepthFormat:
    """The default format: meters for arrays, NPY, EXR and float TIFF; KITTI's units for files named ...depth256.png; otherwise
    integers are relative.
    """
    if isinstance(source, np.ndarray) or Path(source).suffix.lower() in (".npy", ".exr"):
        return FORMATS["meters"]
    if Path(source).name.endswith("depth256.png"):
        return FORMATS["kitti"]
    with contextlib.suppress(*NO_IMAGE), Image.open(source, formats=IMAGE_FORMATS) as image:
        return FORMATS["meters" if image.mode == "F" else "relative"]
    return FORMATS["meters" if _is_float_tiff(Path(source)) else "relative"]


def _is_float_tiff(path: Path) -> bool:
    """True for a TIFF of floats that Pillow does not read."""
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            return page_kind(file.pages[0].tags.valueof).sample_format == FLOAT  # type: ignore[union-attr]
    except Exception:  # parsers raise many types of errors; so does a missing package
        return False


def cityscapes_format(camera: Camera) -> DepthFormat:
    """Cityscapes disparity: a stored value v > 0 is (v - 1) / 256 pixels; 0 is a hole."""
    return DepthFormat(scale=camera.focal * camera.baseline * 256, offset=1, disparity=True)


def read_camera(path: Path) -> Camera:
    """Read a Cityscapes camera file (JSON). Raises UnreadableInput."""
    try:
        found = json.loads(read_bytes(path, limit=2**20))
        return Camera(float(found["intrinsic"]["fx"]), float(found["extrinsic"]["baseline"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableInput(f"not a Cityscapes camera ({error})", where=str(path)) from error


def read_depth(
    source: str | Path | np.ndarray[Any, Any],
    form: DepthFormat = FORMATS["meters"],
    *,
    size: tuple[int, int] | None = None,
) -> Depth:
    """Depth (H, W) with filled holes and infinite sky, from a PNG, TIFF, NPY or EXR file or an array; see `measured_depth`."""
    return fill_holes(measured_depth(source, form, size=size))


def measured_depth(
    source: str | Path | np.ndarray[Any, Any],
    form: DepthFormat = FORMATS["meters"],
    *,
    size: tuple[int, int] | None = None,
) -> Depth:
    """Depth (H, W) with NaN for holes and infinite sky, from a PNG, TIFF, NPY or EXR file or an array.

    `size` is the required (height, width). Raises UnreadableInput for a file that is not a depth map, InputError for a map of
    another size, without any measurement, or with NaN or negative depth, and LimitExceeded.
    """
    where = None if isinstance(source, np.ndarray) else str(source)
    values = plain_array(source) if isinstance(source, np.ndarray) else _stored(Path(source), form.channel)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[..., 0] if values.shape[2] == 1 else values[0]
    if values.ndim != 2 or values.dtype.kind not in "uif" or not values.size:
        what = f"an array of shape {values.shape} and type {values.dtype} is not a depth map"
        raise InputError(what, where=where, hint="depth is one number per pixel, (H, W)")
    if size is not None and values.shape != size:
        what = f"the depth map is {values.shape[1]} x {values.shape[0]}, its image {size[1]} x {size[0]}"
        raise InputError(what, where=where, hint="resize the depth map without blurring it")
    if replace(form, channel=None) == FORMATS["meters"]:
        _warn_of_units(values, where)
    try:
        return to_depth(values, form)
    except InputError as error:
        raise error.at(where or "depth") from None


def png_of_depth(meters: Depth) -> bytes:
    """16-bit PNG of depth (H, W) in KITTI units (meters * 256, 1/256 to 255.99 meters), for files named ...depth256.png."""
    stored = np.empty(meters.shape, np.uint16)
    for top in range(0, len(meters), ROW_BLOCK):  # in 64 bits
        units = meters[top : top + ROW_BLOCK].astype(np.float64) * KITTI_UNITS
        stored[top : top + ROW_BLOCK] = np.clip(np.rint(units), 1, 65535)  # 0 is a hole
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG")
    return buffer.getvalue()


def _warn_of_units(values: np.ndarray[Any, Any], where: str | None) -> None:
    """Warn of numbers that are hardly meters: the depth of a scene has some meters and at most some hundred."""
    finite = values[np.isfinite(values) & (values > 0)]
    if not finite.size:
        return
    middle, top = float(np.median(finite, overwrite_input=True)), float(finite.max())
    if middle > UNLIKELY_METERS:
        what, form = f"a median of {middle:g} suggests millimeters", "nyu"
    elif top <= 1 and finite.size > 1:
        what, form = (
            f"no value above {top:g} suggests relative depth",
            "relative (inverse: larger is nearer)",
        )
    else:
        return
    logger.warning("%s: taken as meters, but %s; if so, give --depth-format %s", where or "depth", what, form)


def to_depth(values: np.ndarray[Any, Any], form: DepthFormat) -> Depth:
    """Convert stored values to depth: NaN for holes, infinity for sky. Raises InputError for other NaN and negative depth."""
    depth = np.empty(values.shape, np.float32)
    nan, unknown, lowest = 0, 0, math.inf
    for top in range(0, len(values), ROW_BLOCK):  # in 64 bits
        part = _to_depth(values[top : top + ROW_BLOCK], form)
        nan, unknown = nan + part.nan, unknown + part.unknown
        lowest = min(lowest, part.lowest)
        depth[top : top + ROW_BLOCK] = part.depth
    if unknown:
        share = 100 * nan / values.size
        raise InputError(
            f"the depth map contains NaN ({share:.3g} % of its pixels)",
            hint="if NaN marks holes: --depth-format meters_nan, or DepthFormat(hole=math.nan)",
        )
    if lowest == math.inf:
        what = "the depth map is empty: it has no measurement"
        raise InputError(what, hint="check the values of holes and sky in the format")
    if lowest < 0:
        raise InputError(f"the depth map contains negative depth ({lowest:g})", hint="larger must be farther")
    return depth


class _Converted(NamedTuple):
    depth: np.ndarray[Any, Any]  # float64
    nan: int
    unknown: int  # NaN that are no holes
    lowest: float  # measured depth; infinity without


def _to_depth(values: np.ndarray[Any, Any], form: DepthFormat) -> _Converted:
    stored = values.astype(np.float64)
    nan = np.isnan(stored)
    hole = np.zeros(stored.shape, bool)
    if form.hole is not None:
        hole = nan | (stored == 0) if math.isnan(form.hole) else stored == form.hole
    sky = np.isposinf(stored) | (stored >= form.sky if form.sky is not None else False)
    with np.errstate(divide="ignore", invalid="ignore"):
        if form.disparity:
            depth = form.scale / (stored - form.offset)
            sky |= ~hole & (stored <= form.offset)  # zero disparity: infinite distance
        else:
            depth = stored * form.scale
    depth[sky & ~hole], depth[hole] = np.inf, np.nan
    measured = depth[np.isfinite(depth)]
    return _Converted(depth, int(nan.sum()), int((nan & ~hole).sum()), float(measured.min(initial=math.inf)))


def relative_depth(depth: Depth, max_depth: float | None = None) -> Depth:
    """Depth divided by `max_depth` (default: its 99.9 % quantile without sky) and clamped to [0, 1]; sky is 1.

    The ranges of beta of Li et al. 2019 assume depth in [0, 1]. Raises InputError if the map is all sky.
    """
    relative: Depth = np.clip(depth / (max_depth_of(depth) if max_depth is None else max(max_depth, MIN_DEPTH)), 0, 1).astype(
        np.float32
    )
    return relative


def max_depth_of(depth: Depth) -> float:
    """The 99.9 % quantile of the depth without sky; above 0. Raises InputError if the map is all sky."""
    finite = depth[np.isfinite(depth)]
    if finite.size == 0:
        raise InputError("the depth map is all sky, so it has no largest depth", hint="give the largest depth in meters")
    return max(float(np.quantile(finite, QUANTILE)), MIN_DEPTH)


def _stored(path: Path, channel: str | None) -> np.ndarray[Any, Any]:
    data = read_bytes(path, limit=FILE_LIMIT)
    try:
        if path.suffix.lower() == ".npy":
            return _npy(data)
        if path.suffix.lower() == ".exr":
            return read_exr(data, channel)
        return _image(data)
    except (InputError, LimitExceeded) as error:
        raise error.at(str(path)) from None
    except Image.DecompressionBombError as error:
        raise too_many_pixels(error, str(path)) from error
    except UnidentifiedImageError as error:
        what, hint = "this is not a depth map of a known format", f"known endings: {', '.join(sorted(DEPTH_ENDINGS))}"
        raise UnreadableInput(what, where=str(path), hint=hint) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        what = f"this is not a depth map, or it is damaged ({' '.join(str(error).split())[:120]})"
        raise UnreadableInput(what, where=str(path), hint=f"known endings: {', '.join(sorted(DEPTH_ENDINGS))}") from error


def _npy(data: bytes) -> np.ndarray[Any, Any]:
    values = load_array(data)
    limit = current_limits().pixels
    if values.size > limit:
        raise LimitExceeded(
            f"{values.size:,} values are more than the limit of {limit:,}", hint=hint([f"pixels={values.size}"])
        )
    return values


def _image(data: bytes) -> np.ndarray[Any, Any]:
    try:
        return _by_pillow(data)
    except UnidentifiedImageError:
        values = _by_tifffile(data)
        if values is None:
            raise
        return values


def _by_tifffile(data: bytes) -> np.ndarray[Any, Any] | None:
    """The first page of a TIFF that Pillow does not know, such as floats of 16 or 64 bits; None for other files."""
    try:
        values = first_values(io.BytesIO(data), lambda width, height: current_limits().check(width, height, "the depth map"))
    except LatensError:
        raise
    except Exception:  # parsers raise many types of errors for damaged data
        return None
    return None if values is None else values.astype(np.float32)


def _by_pillow(data: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        current_limits().check(image.width, image.height, "the depth map")
        if image.mode not in ("L", "I", "F") and not image.mode.startswith("I;16"):
            raise InputError(f"an image of mode {image.mode} is not a depth map", hint="depth is gray, 8 or 16 bits")
        return np.array(image)
