"""The function of the napari plug-in (napari.yaml): labels of an image layer. napari makes its widget from the annotations."""

from functools import lru_cache
from typing import Any

import numpy as np


def segment(
    image: "napari.types.ImageData",  # type: ignore[name-defined]
    model: str = "cells",
    score: float = 0.5,
) -> "napari.types.LabelsData":  # type: ignore[name-defined]
    """Label map of an image (H, W) or (H, W, 3), or of every plane of a stack (..., H, W).

    The number of the object of every pixel, from 1 in every plane; where objects overlap, that of the front one.
    """
    from latens.data.instances import label_map

    pixels = np.asarray(image)
    if pixels.ndim > (3 if pixels.shape[-1] in (3, 4) else 2):
        return np.stack([segment(plane, model, score) for plane in pixels])
    found = _loaded(model).segment(pixels, least_score=score)
    return label_map(found.placed, found.size)[0]


@lru_cache(maxsize=2)
def _loaded(model: str) -> Any:
    import latens

    return latens.load(model)
