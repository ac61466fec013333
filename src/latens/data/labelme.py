"""Conversion from and to labelme files, one JSON file per image.

An object is one shape with its whole (amodal) outline, or several shapes with the same label and `group_id`: its pieces. The
visible part of an occluded object is drawn as further shapes with the same `group_id` and the flag "visible" (or a label that
ends in "/visible"). The flag "layer:N" gives the depth order, 0 in front. Where outlines without visible parts overlap, the
visible parts are derived (`visibility`). Polygons, rectangles and circles are rasterized; masks are exact in both
directions.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from latens.data.image_output import png_bytes
from latens.data.image_paths import image_path, is_there, portable_name
from latens.data.instances import Collection, Scene
from latens.data.json_objects import read_json_object
from latens.data.masks import (
    Rle,
    check_coordinates,
    corner_box,
    decode,
    encode,
    image_size,
    overlapping_pairs,
    read_segmentation,
    union,
)
from latens.data.visibility import Drawn, Repairs, completed, visible_inside
from latens.errors import InputError, LatensError

VISIBLE, LAYER = "visible", "layer:"
CIRCLE_SIDES = 360
STROKES = ("line", "linestrip", "point", "points")


def read_labelme(
    paths: Sequence[Path], categories: Sequence[str] | None = None, root: Path | None = None, *, stroke: float | None = None
) -> Collection:
    """Read labelme's JSON files as a collection; `root`, by default the folder of the first file, contains all images.

    `categories` sets the classes and their order (InputError for any other label); by default the sorted labels of the files.
    Lines and points have no area; with `stroke` they are strokes of this width, relative to the shorter side of the image.
    Raises InputError for an imagePath that does not exist or leads outside `root`.
    """
    if not paths:
        raise InputError("no labelme file was given", hint="give the JSON files that labelme wrote")
    documents = [(path, _load(path)) for path in paths]
    found = sorted({_label(shape) for _, document in documents for shape in document["shapes"]})
    names = tuple(categories) if categories is not None else tuple(found)
    strange = set(found) - set(names)
    if strange:
        raise InputError(f"labels without a class: {', '.join(sorted(strange))}", hint=f"classes: {', '.join(names)}")
    folder = paths[0].parent if root is None else root
    scenes: list[Scene] = []
    annotated: dict[str, Path] = {}
    for path, document in documents:
        repairs = Repairs()
        try:
            scenes.append(_scene(document, names, _image_name(document, path.parent, folder), repairs, stroke))
        except LatensError as error:
            raise error.at(str(path)) from error
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, OSError) as error:
            what = f"a shape cannot be read ({type(error).__name__}: {str(error)[:200]})"
            raise InputError(what, where=str(path), hint="save it again with labelme") from None
        repairs.log(path)
        first = annotated.setdefault(scenes[-1].file, path)
        if first != path:
            what = f"its image {scenes[-1].file} is also that of {first}"
            raise InputError(what, where=str(path), hint="join both files, or move one into another folder")
    return Collection(categories=names, scenes=tuple(scenes), root=folder, info={"dialect": "labelme"})


def _load(path: Path) -> dict[str, Any]:
    document = read_json_object(path, "a labelme file")
    needed = {"shapes", "imagePath", "imageHeight", "imageWidth"}
    if not needed <= set(document) or not isinstance(document["shapes"], list):
        raise InputError("not a labelme file", where=str(path), hint=f"it needs the keys {', '.join(sorted(needed))}")
    for number, shape in enumerate(document["shapes"], start=1):
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not _label(shape).strip():
            raise InputError(f"shape {number} has no label", where=str(path), hint="give it one in labelme")
    return document


def is_labelme(path: Path) -> bool:
    """True for a JSON file with the keys of labelme. Raises InputError for a file that is not a JSON object."""
    return {"shapes", "imagePath"} <= set(read_json_object(path, "a labelme file"))


def _image_name(document: dict[str, Any], folder: Path, root: Path) -> str:
    """The image of a file in `folder`, relative to `root`. Raises InputError if it does not exist or is outside `root`."""
    name = document["imagePath"]
    if not isinstance(name, str) or not name:
        raise InputError("the imagePath is missing", hint="save it again with labelme")
    name = portable_name(name, folder)
    relative = PurePath(os.path.relpath(folder / name, root)).as_posix()
    if not is_there(image_path(root, relative)):
        what = f"its image does not exist: {name}"
        raise InputError(what, hint="put the image there, or correct imagePath: it starts at the folder of the JSON file")
    return relative


def _label(shape: dict[str, Any]) -> str:
    return str(shape["label"]).removesuffix("/" + VISIBLE)


def _is_visible_part(shape: dict[str, Any]) -> bool:
    return str(shape["label"]).endswith("/" + VISIBLE) or bool((shape.get("flags") or {}).get(VISIBLE))


class _Object(NamedTuple):
    """The pieces of an object and of its visible part, with their numbers in the file (from 1)."""

    label: str
    group: Any
    pieces: list[tuple[int, dict[str, Any]]]
    visible: list[tuple[int, dict[str, Any]]]


def _objects(shapes: Sequence[dict[str, Any]]) -> list[_Object]:
    """Shapes by label and `group_id`, as in labelme's own converters; a visible part may have another label."""
    found: list[_Object] = []
    grouped: dict[tuple[str, Any], _Object] = {}
    numbered = list(enumerate(shapes, start=1))
    for number, shape in numbered:
        if _is_visible_part(shape):
            continue
        key = (_label(shape), shape.get("group_id"))
        if key[1] is None or key not in grouped:
            found.append(_Object(*key, [], []))
            if key[1] is not None:
                grouped[key] = found[-1]
        (found[-1] if key[1] is None else grouped[key]).pieces.append((number, shape))
    for number, shape in numbered:
        if not _is_visible_part(shape):
            continue
        group = shape.get("group_id")
        if group is None:
            raise InputError(f"shape {number} is a visible part without a group_id", hint="give it the group_id of its object")
        same = [each for each in found if each.group == group]
        owner = grouped.get((_label(shape), group)) or (same[0] if len(same) == 1 else None)
        if owner is None:
            what = f"{len(same)} objects of other classes have" if same else "no object has"
            raise InputError(f"shape {number} is a visible part, but {what} its group_id {str(group)[:40]}")
        owner.visible.append((number, shape))
    return found


def _scene(document: dict[str, Any], names: Sequence[str], file: str, repairs: Repairs, stroke: float | None = None) -> Scene:
    size = image_size(document["imageHeight"], document["imageWidth"])
    drawn = []
    for each in _objects(document["shapes"]):
        amodal = union([_mask(shape, size, number, stroke) for number, shape in each.pieces])
        visible = None
        if each.visible:
            part = union([_mask(shape, size, number, stroke) for number, shape in each.visible])
            try:
                visible = visible_inside(amodal, part, repairs)
            except LatensError as error:
                raise error.of(f"shape {each.visible[0][0]} ({each.label})") from error
        drawn.append(Drawn(amodal, visible, names.index(each.label), _layer(each)))
    return Scene(file=file, height=size[0], width=size[1], instances=completed(drawn, repairs))


def _layer(each: _Object) -> int | None:
    """The depth order of an object. Raises InputError if its pieces have different ones."""
    layers = {
        int(str(flag).removeprefix(LAYER))
        for _, shape in each.pieces
        for flag, value in (shape.get("flags") or {}).items()
        if value and str(flag).startswith(LAYER)
    }
    if len(layers) > 1:
        raise InputError(f"the object with group_id {each.group} has several layers: {', '.join(map(str, sorted(layers)))}")
    return layers.pop() if layers else None


def _mask(shape: dict[str, Any], size: tuple[int, int], number: int, stroke: float | None) -> Rle:
    try:
        return _rasterized(shape, size, stroke)
    except LatensError as error:
        raise error.of(f"shape {number} ({_label(shape)})") from error


def _rasterized(shape: dict[str, Any], size: tuple[int, int], stroke: float | None) -> Rle:
    points = [(x, y) for x, y in shape["points"]]
    check_coordinates([value for point in points for value in point], size)
    kind = shape.get("shape_type", "polygon")
    if kind == "mask":
        return _placed(shape["mask"], points[0], size)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle":
        (cx, cy), (x, y) = points
        radius = math.hypot(x - cx, y - cy)
        turns = [2 * math.pi * i / CIRCLE_SIDES for i in range(CIRCLE_SIDES)]
        points = [(cx + radius * math.cos(turn), cy + radius * math.sin(turn)) for turn in turns]
    elif kind in STROKES and stroke is not None:
        return _stroked(points, size, max(1, round(stroke * min(size))))
    elif kind != "polygon":
        raise InputError(f"shapes of the type '{kind}' have no area", hint="draw polygons, rectangles, circles or masks")
    return read_segmentation([[value for point in points for value in point]], size)


def _stroked(points: Sequence[tuple[float, float]], size: tuple[int, int], width: int) -> Rle:
    """The pixels within half a width of a line."""
    image = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    draw.line(list(points), fill=1, width=width, joint="curve")
    for x, y in points:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=1)
    return encode(np.asarray(image))


def _placed(text: str, corner: tuple[float, float], size: tuple[int, int]) -> Rle:
    """The mask of a PNG file in base64 whose top left pixel is `corner`. Raises InputError if it extends beyond the image."""
    left, top = (round(value) for value in corner)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
            inside = left >= 0 and top >= 0 and left + image.width <= size[1] and top + image.height <= size[0]
            part = np.asarray(image.convert("L")) > 0 if inside else None
    except Exception as error:  # Pillow raises many types of errors for damaged data
        raise InputError(f"its mask is damaged ({type(error).__name__})", hint="draw the object again") from None
    if part is None:
        raise InputError("a mask extends beyond its image")
    whole = np.zeros(size, dtype=bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return encode(whole)


# ---------------------------------------------------------------------------------------------------------- writing


def to_labelme(scene: Scene, categories: Sequence[str]) -> dict[str, Any]:
    """The JSON document of a labelme file for a scene, with exact masks."""
    shapes = []
    overlapping = _overlapping(scene)
    for number, instance in enumerate(scene.instances, start=1):
        label = categories[instance.category]
        flags = {} if instance.layer is None else {f"{LAYER}{instance.layer}": True}
        shapes.append(_shape(instance.amodal, label, number, flags))
        if instance.visible != instance.amodal or number - 1 in overlapping:
            shapes.append(_shape(instance.visible, label, number, {VISIBLE: True}))
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": scene.file,
        "imageData": None,
        "imageHeight": scene.height,
        "imageWidth": scene.width,
    }


def _overlapping(scene: Scene) -> set[int]:
    """Fully visible objects that overlap each other: without their visible parts, the overlap would count as hidden."""
    visible = [index for index, each in enumerate(scene.instances) if each.visible == each.amodal]
    pairs = overlapping_pairs([scene.instances[index].amodal for index in visible])
    return {visible[number] for pair in pairs for number in pair}


def _shape(rle: Rle, label: str, group: int, flags: dict[str, bool]) -> dict[str, Any]:
    x, y, width, height = (int(value) for value in corner_box(rle))
    part = decode(rle)[y : y + max(height, 1), x : x + max(width, 1)]
    return {
        "label": label,
        "points": [[float(x), float(y)], [float(x + part.shape[1] - 1), float(y + part.shape[0] - 1)]],
        "group_id": group,
        "shape_type": "mask",
        "flags": flags,
        "mask": base64.b64encode(png_bytes(part)).decode("ascii"),
    }
