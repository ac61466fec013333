"""Baselines: Otsu's threshold with a watershed, and three classes of the same network with a watershed."""

from __future__ import annotations

import numpy as np

from latens.shapes import Int, UInt8
from latens.systems.amodal.cells.fields import Kind

SMALLEST = 20  # pixels of the smallest object
SMOOTH = 1.0  # standard deviation of the smoothing of the image, pixels
DISTANCE_SMOOTH = 1.5  # of the distance map
BORDER = 0.3  # contact probability above which a pixel is no seed
SEPARATION = 5  # smallest distance between two centers, pixels


def otsu_watershed(pixels: UInt8[np.ndarray, "H W 3"], kind: Kind) -> Int[np.ndarray, "H W"]:
    """Label map of an image: light nuclei in fluorescence, dark nuclei in stained and bright images."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import watershed

    gray = ndimage.gaussian_filter(pixels.astype(np.float64).mean(axis=2), SMOOTH)
    gray = gray if kind == "fluorescent" else -gray
    if gray.max() - gray.min() < 1e-6:
        return np.zeros(gray.shape, dtype=np.int32)
    mask = ndimage.binary_fill_holes(gray > threshold_otsu(gray))
    mask = remove_small_objects(mask, max_size=SMALLEST)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), DISTANCE_SMOOTH)
    peaks = peak_local_max(distance, min_distance=SEPARATION, labels=ndimage.label(mask)[0], exclude_border=False)
    seeds = np.zeros(mask.shape, dtype=np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-distance, seeds, mask=mask), dtype=np.int32)


def three_classes(
    foreground: UInt8[np.ndarray, "h w"], contact: UInt8[np.ndarray, "h w"], size: tuple[int, int]
) -> Int[np.ndarray, "H W"]:
    """Label map of an image of `size` from maps of a frame (0 to 255), without outlines.

    Connected foreground without contact is a seed; a watershed grows the seeds over the foreground.
    """
    import cv2
    from scipy import ndimage
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import watershed

    shape = (size[1], size[0])
    inside, border = (np.asarray(cv2.resize(each, shape, interpolation=cv2.INTER_LINEAR)) for each in (foreground, contact))
    mask = inside >= 128
    seeds = ndimage.label(remove_small_objects(mask & (border < 255 * BORDER), max_size=SMALLEST))[0]
    return np.asarray(watershed(border.astype(np.int32), seeds, mask=mask), dtype=np.int32)
