"""Names of the files and image folders of amodal data sets as their authors publish them.

| keyword | training and test annotations, in the folder or in annotations/ | images |
|---|---|---|
| kins | update_train_2020.json, update_test_2020.json | training/image_2, testing/image_2 |
| kins | instances_train.json, instances_val.json, if those are missing | the same |
| cocoa | COCO_amodal_train2014.json, COCO_amodal_val2014.json | train2014, val2014 |
| d2sa | D2S_amodal_training_rot0.json or D2S_amodal_training.json, D2S_amodal_validation.json | images |
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Layout(NamedTuple):
    """Names of a training and a test file, and the folders of their images."""

    train: str
    test: str
    train_images: str
    test_images: str


LAYOUTS: Mapping[str, tuple[Layout, ...]] = MappingProxyType(
    {
        "kins": (
            Layout("update_train_2020.json", "update_test_2020.json", "training/image_2", "testing/image_2"),
            Layout("instances_train.json", "instances_val.json", "training/image_2", "testing/image_2"),
        ),
        "cocoa": (Layout("COCO_amodal_train2014.json", "COCO_amodal_val2014.json", "train2014", "val2014"),),
        "d2sa": (
            Layout("D2S_amodal_training_rot0.json", "D2S_amodal_validation.json", "images", "images"),
            Layout("D2S_amodal_training.json", "D2S_amodal_validation.json", "images", "images"),
        ),
    }
)
"""By keyword, in the order in which they are looked for."""


def published_images(keyword: str, file: str) -> str | None:
    """The image folder of an annotation file by its name, relative to the data set; None for other names."""
    for layout in LAYOUTS.get(keyword, ()):
        if file in (layout.train, layout.test):
            return layout.train_images if file == layout.train else layout.test_images
    return None
