"""KINS, COCOA and D2SA in miniature: a few generated images with the names, keys and polygons of the published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TRAIN, TEST = 6, 3  # images
SIZES = {"kins": (1242, 375), "cocoa": (640, 480), "d2sa": (1920, 1440)}  # width and height of the published images


def write(kind: str, folder: Path, scale: float = 1.0) -> Path:
    """Write the data set `kind` into `folder`; `scale` reduces its images. The smallest object of an image has 3 pixels."""
    width, height = (round(side * scale) for side in SIZES[kind])
    names = {
        "kins": (("training/image_2", "update_train_2020.json"), ("testing/image_2", "update_test_2020.json")),
        "cocoa": (("train2014", "annotations/COCO_amodal_train2014.json"), ("val2014", "annotations/COCO_amodal_val2014.json")),
        "d2sa": (("images", "D2S_amodal_training_rot0.json"), ("images", "D2S_amodal_validation.json")),
    }[kind]
    for (images, file), count, first in zip(names, (TRAIN, TEST), (0, 100), strict=True):
        document = _document(kind, folder / images, count, first, (width, height))
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(document))
    return folder


def _document(kind: str, images: Path, count: int, first: int, size: tuple[int, int]) -> dict[str, Any]:
    images.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    width, height = size
    for number in range(first, first + count):
        rng = np.random.default_rng([number, width])
        pixels = rng.integers(90, 120, (height, width, 3), dtype=np.uint8)
        left, top = int(rng.integers(width // 3)), int(rng.integers(height // 4))
        back, front = (left, top, width // 3, height // 2), (left + width // 5, top + height // 4, width // 4, height // 3)
        for (x, y, wide, high), color in ((back, (40, 60, 200)), (front, (200, 80, 40))):
            pixels[y : y + high, x : x + wide] = color
        name = f"{number:06d}.png"
        Image.fromarray(pixels).save(images / name)
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        hidden = (front[0] - back[0], front[1] - back[1])
        seen = [back[0], back[1], back[2], hidden[1]]  # above the front object
        tiny = (width - 4, height - 2, 3, 1)
        annotations += _objects(kind, number, len(annotations), [(back, seen), (front, front), (tiny, tiny)])
    names = {"kins": ("cyclist", "pedestrian", "car", "tram", "truck", "van", "misc"), "d2sa": ("bottle", "box"), "cocoa": ()}
    categories = [{"id": place, "name": each} for place, each in enumerate(names[kind], start=1)]
    return {"images": listed, "annotations": annotations, **({"categories": categories} if categories else {})}


def _objects(kind: str, image: int, start: int, boxes: list[Any]) -> list[dict[str, Any]]:
    """The annotations of an image: (whole, visible) boxes as the polygons of the data set."""
    if kind == "cocoa":
        regions = [
            {"segmentation": _polygon(whole), "name": "thing", "order": order, "isStuff": 0, "occlude_rate": 0.0}
            for order, (whole, _) in zip((2, 1, 3), boxes, strict=True)
        ]
        return [{"id": start, "image_id": image, "size": len(regions), "regions": regions}]
    made = []
    for number, (whole, seen) in enumerate(boxes):
        shared = {"id": start + number, "image_id": image, "category_id": 1 + number % 2, "iscrowd": 0}
        if kind == "kins":
            depth = {"ico_id": number, "oco_id": 0, "a_bbox": list(whole), "i_bbox": list(seen)}
            made.append({**shared, "a_segm": [_polygon(whole)], "i_segm": [_polygon(seen)], **depth})
        else:
            made.append({**shared, "segmentation": [_polygon(whole)], "visible_mask": [_polygon(seen)], "bbox": list(whole)})
    return made


def _polygon(box: Any) -> list[int]:
    x, y, wide, high = box
    return [x, y, x + wide, y, x + wide, y + high, x, y + high]
