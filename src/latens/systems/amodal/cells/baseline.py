"""The classical baseline: Otsu's threshold, and a watershed of the distance to the background."""

from __future__ import annotations

import numpy as np

from latens.shapes import Int, UInt8
from latens.systems.amodal.cells.fields import Kind

SMALLEST = 20  # pixels of the smallest object
SMOOTH = 1.0  # standard deviation of the smoothing of the image, pixels
DISTANCE_SMOOTH = 1.5  # of the distance map
SEPARATION = 5  # smallest distance between two centers, pixels


def otsu_watershed(pixels: UInt8[np.ndarray, "H W 3"], kind: Kind) -> Int[np.ndarray, "H W"]:
    """Label map of an image: light nuclei in fluorescence, dark nuclei in stained and bright images."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import watershed

    grey = ndimage.gaussian_filter(pixels.astype(np.float64).mean(axis=2), SMOOTH)
    grey = grey if kind == "fluorescent" else -grey
    if grey.max() - grey.min() < 1e-6:
        return np.zeros(grey.shape, dtype=np.int32)
    mask = ndimage.binary_fill_holes(grey > threshold_otsu(grey))
    mask = remove_small_objects(mask, max_size=SMALLEST)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), DISTANCE_SMOOTH)
    peaks = peak_local_max(distance, min_distance=SEPARATION, labels=ndimage.label(mask)[0], exclude_border=False)
    seeds = np.zeros(mask.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-distance, seeds, mask=mask), dtype=np.int32)
