"""Conversion from and to labelme files, one JSON file per image.

An object is one shape with its amodal outline. The visible part of an occluded object is a second shape with the same
`group_id` and the flag "visible" (or a label that ends in "/visible"). The flag "layer:N" gives the depth order, 0 in front.
Polygons, rectangles and circles are rasterized; shapes of the type "mask" are exact in both directions.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latens.data.files import read_bytes
from latens.data.image_output import png_bytes
from latens.data.instances import Collection, Instance, Scene
from latens.data.masks import Rle, corner_box, decode, encode, read_segmentation
from latens.errors import InputError, LatensError

FILE_LIMIT = 2**30
VISIBLE, LAYER = "visible", "layer:"
CIRCLE_SIDES = 360


def read_labelme(paths: Sequence[Path], categories: Sequence[str] | None = None) -> Collection:
    """Read labelme's JSON files as a collection; its root is the folder of the first file.

    `categories` sets the classes and their order (InputError for any other label); by default the sorted labels of the files.
    """
    if not paths:
        raise InputError("no labelme file was given", hint="give the JSON files that labelme wrote")
    documents = [(path, _load(path)) for path in paths]
    found = sorted({_label(shape) for _, document in documents for shape in document["shapes"]})
    names = tuple(categories) if categories is not None else tuple(found)
    strange = set(found) - set(names)
    if strange:
        raise InputError(f"labels without a class: {', '.join(sorted(strange))}", hint=f"classes: {', '.join(names)}")
    scenes = []
    for path, document in documents:
        try:
            scenes.append(_scene(document, names))
        except LatensError as error:
            raise error.at(str(path)) from error
        except (KeyError, TypeError, ValueError, OSError) as error:
            what = f"a shape cannot be read ({type(error).__name__}: {error})"
            raise InputError(what, where=str(path), hint="save it again with labelme") from None
    return Collection(categories=names, scenes=tuple(scenes), root=paths[0].parent, info={"dialect": "labelme"})


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(path, limit=FILE_LIMIT))
    except ValueError as error:
        raise InputError(f"not a JSON file ({error})", where=str(path)) from None
    needed = {"shapes", "imagePath", "imageHeight", "imageWidth"}
    if not isinstance(document, dict) or not needed <= set(document) or not isinstance(document["shapes"], list):
        raise InputError("not a labelme file", where=str(path), hint=f"it needs the keys {', '.join(sorted(needed))}")
    return document


def _label(shape: dict[str, Any]) -> str:
    return str(shape["label"]).removesuffix("/" + VISIBLE)


def _is_visible_part(shape: dict[str, Any]) -> bool:
    return str(shape["label"]).endswith("/" + VISIBLE) or bool((shape.get("flags") or {}).get(VISIBLE))


def _scene(document: dict[str, Any], names: Sequence[str]) -> Scene:
    size = (int(document["imageHeight"]), int(document["imageWidth"]))
    visible = {shape["group_id"]: _mask(shape, size) for shape in document["shapes"] if _is_visible_part(shape)}
    if None in visible:
        raise InputError("a visible part has no group_id", hint="give it the group_id of its object")
    instances = []
    for shape in document["shapes"]:
        if _is_visible_part(shape):
            continue
        amodal = _mask(shape, size)
        instances.append(
            Instance(
                amodal=amodal,
                visible=visible.pop(shape.get("group_id"), amodal),
                category=names.index(_label(shape)),
                layer=_layer(shape),
            )
        )
    if visible:
        raise InputError(f"visible parts without an object: group_id {', '.join(map(str, visible))}")
    return Scene(file=str(document["imagePath"]), height=size[0], width=size[1], instances=tuple(instances))


def _layer(shape: dict[str, Any]) -> int | None:
    for flag, value in (shape.get("flags") or {}).items():
        if value and str(flag).startswith(LAYER):
            return int(str(flag).removeprefix(LAYER))
    return None


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> Rle:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    kind = shape.get("shape_type", "polygon")
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",)) as image:
            part = np.asarray(image.convert("L")) > 0
        left, top = (round(value) for value in points[0])
        whole = np.zeros(size, dtype=bool)
        target = whole[top : top + part.shape[0], left : left + part.shape[1]]
        if left < 0 or top < 0 or target.shape != part.shape:
            raise InputError("a mask extends beyond its image")
        target[:] = part
        return encode(whole)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle":
        (cx, cy), (x, y) = points
        radius = math.hypot(x - cx, y - cy)
        turns = [2 * math.pi * i / CIRCLE_SIDES for i in range(CIRCLE_SIDES)]
        points = [(cx + radius * math.cos(turn), cy + radius * math.sin(turn)) for turn in turns]
    elif kind != "polygon":
        raise InputError(f"shapes of the type '{kind}' have no area", hint="draw polygons, rectangles, circles or masks")
    return read_segmentation([[value for point in points for value in point]], size)


# ---------------------------------------------------------------------------------------------------------- writing


def to_labelme(scene: Scene, categories: Sequence[str]) -> dict[str, Any]:
    """The JSON document of a labelme file for a scene, with exact masks."""
    shapes = []
    for number, instance in enumerate(scene.instances, start=1):
        label = categories[instance.category]
        flags = {} if instance.layer is None else {f"{LAYER}{instance.layer}": True}
        shapes.append(_shape(instance.amodal, label, number, flags))
        if instance.visible != instance.amodal:
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
