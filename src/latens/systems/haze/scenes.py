"""Clear images with depth: simulated streets, and folders of RGB-D data sets.

The file names determine the format of the depth:

    NAME.jpg + NAME_depth.png | .npy | .exr            any unit; larger is farther, 0 is missing
    NAME[_left].jpg + NAME_depth256.png                meters * 256
    NAME[_left].jpg + NAME_sparsedepth256.png          the same with holes, as KITTI's lidar; bright holes above it are sky
    NAME.jpg + NAME_label.png                          class labels of CamVid; only in a source camvid:FOLDER
    NAME_leftImg8bit.png + NAME_disparity.png + NAME_camera.json      Cityscapes
    ColorImage/PLACE/NAME.jpg + Depth/PLACE/NAME.png   ApolloScape
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.depth import (
    FORMATS,
    Depth,
    DepthFormat,
    cityscapes_format,
    measured_depth,
    read_camera,
    read_depth,
)
from latens.data.depth_holes import fill_holes
from latens.data.images import IMAGE_ENDINGS, Pixels, read_image
from latens.data.inputs import files_under
from latens.errors import InputError, UnreadableInput
from latens.systems.haze.simulator.streets import street
from latens.systems.haze.street_labels import street_depth

logger = logging.getLogger(__name__)

STORED = DepthFormat(relative=True)  # for files of unknown unit; 0 is missing
SPARSE_ENDING, LABEL_ENDING = "_sparsedepth256.png", "_label.png"
SUFFIXES = ("_leftImg8bit", "_left", "")
DEPTHS = (
    ("_depth256.png", FORMATS["kitti"]),
    (SPARSE_ENDING, FORMATS["kitti"]),
    *((f"_depth{e}", STORED) for e in (".png", ".npy", ".exr")),
)
SIMULATED_SIZE = (240, 360)  # height and width
HELD_OUT_SEED = 1_000_000  # seeds from this one on are never used in training
DEPTH_STEMS = ("_depth", "_depth256", "_sparsedepth256", "_disparity")  # ends of the stems of depth files
DEPTH_KINDS = ("", "rgbd", "apollo")  # kinds of sources that are folders of images with depth
LABEL_KIND = "camvid"  # kind of sources that are folders of street images with class labels
SKY_BRIGHT, SKY_SMOOTH = 150, 12  # gray levels: least brightness of a sky, and its largest deviation in a window
SKY_WINDOW, SKY_COLUMNS = 9, 41  # pixels: side of that window, and columns whose first return bounds a sky
GAP = 2  # images between the training and the held-out images that are not used


class ScenePath(NamedTuple):
    name: str
    image: Path
    depth: Path
    form: DepthFormat
    labels: bool = False  # `depth` holds class labels of a street instead

    @property
    def number(self) -> int | None:
        """The number that is the name of the file, None for another name."""
        return int(self.image.stem) if self.image.stem.isdecimal() else None


class Scene(NamedTuple):
    """A clear image and its depth, in meters or in an unknown unit; the depth of the sky is infinite."""

    name: str
    image: Pixels
    depth: Depth


def find_scenes(folder: Path) -> list[ScenePath]:
    """Images under the folder that have depth, in natural order. Raises UnreadableInput if there are none."""
    if not folder.is_dir():
        raise UnreadableInput("not a folder", where=str(folder), hint="give the folder of images and depth maps")
    paths = files_under(folder, IMAGE_ENDINGS)
    found = [scene for path in paths for scene in [_with_depth(path, folder)] if scene is not None]
    used = {file for scene in found for file in (scene.image, scene.depth)}
    left = [path for path in paths if path not in used and not path.stem.endswith(DEPTH_STEMS)]
    if not found:
        hint = "accepted names: photo.jpg with photo_depth.png, Cityscapes, ApolloScape; see the README of haze"
        raise UnreadableInput("no image in this folder has a depth map", where=str(folder), hint=hint)
    if left:
        logger.warning("%s: skipped %d images without a depth map, the first is %s", folder, len(left), left[0].name)
    return found


def _with_depth(path: Path, folder: Path) -> ScenePath | None:
    name = path.relative_to(folder).with_suffix("").as_posix()
    parts = path.relative_to(folder).parts
    if "ColorImage" in parts:
        depth = folder.joinpath(*("Depth" if part == "ColorImage" else part for part in parts)).with_suffix(".png")
        return ScenePath(name, path, depth, FORMATS["apolloscape"]) if depth.is_file() else None
    base = next(path.stem.removesuffix(s) for s in SUFFIXES if path.stem.endswith(s))
    disparity, camera = path.with_name(f"{base}_disparity.png"), path.with_name(f"{base}_camera.json")
    if path != disparity and disparity.is_file() and camera.is_file():
        return ScenePath(name, path, disparity, cityscapes_format(read_camera(camera)))
    for ending, form in DEPTHS:
        depth = path.with_name(base + ending)
        if depth.is_file():
            return ScenePath(name, path, depth, form)
    return None


def find_labeled(folder: Path) -> list[ScenePath]:
    """Street images under the folder with class labels. Raises UnreadableInput if there are none."""
    if not folder.is_dir():
        raise UnreadableInput("not a folder", where=str(folder), hint="give the folder of images and labels")
    found = []
    for path in files_under(folder, IMAGE_ENDINGS):
        labels = path.with_name(path.stem + LABEL_ENDING)
        if labels.is_file():
            found.append(ScenePath(path.relative_to(folder).with_suffix("").as_posix(), path, labels, FORMATS["meters"], True))
    if not found:
        raise UnreadableInput(
            "no image in this folder has labels", where=str(folder), hint=f"accepted names: a.jpg, a{LABEL_ENDING}"
        )
    return found


def load_scene(found: ScenePath, *, side: int = 0, border: int = 0) -> Scene:
    """The image and its depth, cropped by `border` pixels per side, reduced to a short side of `side` pixels (0: not reduced).

    Raises InputError for a depth map of another size, without measurements or with NaN, and if the border covers the image.
    """
    image = read_image(found.image)
    depth = _depth_of(found, image.pixels)
    try:
        return reduced(cropped(Scene(found.name, image.pixels, depth), border), side)
    except InputError as error:
        raise error.at(str(found.image)) from None


def _depth_of(found: ScenePath, image: Pixels) -> Depth:
    size = (image.shape[0], image.shape[1])
    if found.labels:
        labels = read_image(found.depth).pixels[..., 0]
        if labels.shape != size:
            raise InputError(
                f"labels of {labels.shape[1]} x {labels.shape[0]}, image of {size[1]} x {size[0]}", where=str(found.depth)
            )
        return street_depth(labels)
    if not found.depth.name.endswith(SPARSE_ENDING):
        return read_depth(found.depth, found.form, size=size)
    depth = measured_depth(found.depth, found.form, size=size)
    return np.where(sky_above(image, depth), np.float32(np.inf), fill_holes(depth))


def sky_above(image: Pixels, depth: Depth) -> np.ndarray:
    """Sky of an image with lidar depth (H, W; NaN: no return): bright, smooth, and above every return of nearby columns.

    Lidar has no return from the sky, and holes filled from their surroundings would put it at the distance of the roofs.
    """
    from scipy import ndimage

    measured = np.isfinite(depth)
    first = np.where(measured.any(0), measured.argmax(0), len(depth))
    first = ndimage.minimum_filter1d(first, SKY_COLUMNS, mode="nearest")
    gray = image.astype(np.float32).mean(2)
    mean, square = (ndimage.uniform_filter(values, SKY_WINDOW) for values in (gray, gray * gray))
    smooth = square - mean * mean < SKY_SMOOTH**2
    return np.asarray((np.arange(len(depth))[:, None] < first) & (mean > SKY_BRIGHT) & smooth)


def cropped(scene: Scene, border: int) -> Scene:
    """The scene without `border` pixels on every side. Raises InputError if nothing remains."""
    height, width = scene.depth.shape
    if 2 * border >= min(height, width):
        raise InputError(f"a border of {border} pixels leaves nothing of {width} x {height} pixels", where=scene.name)
    inner = (slice(border, height - border), slice(border, width - border))
    return Scene(scene.name, scene.image[inner], scene.depth[inner])


def reduced(scene: Scene, side: int) -> Scene:
    """The scene reduced to a short side of at most `side` pixels: area average of the image, nearest sample of the depth."""
    height, width = scene.image.shape[:2]
    if not side or min(height, width) <= side:
        return scene
    factor = side / min(height, width)
    size = (max(round(width * factor), side), max(round(height * factor), side))
    image = np.asarray(Image.fromarray(scene.image).resize(size, Image.Resampling.BOX))
    depth = np.asarray(Image.fromarray(scene.depth).resize(size, Image.Resampling.NEAREST))
    return Scene(scene.name, image, depth)


def simulated(seeds: Sequence[int], size: tuple[int, int] = SIMULATED_SIZE) -> Iterator[Scene]:
    """Simulated streets at (height, width)."""
    for seed in seeds:
        made = street(seed, size)
        yield Scene(f"street{seed}", made.image, made.depth)


def street_size(side: int) -> tuple[int, int]:
    """Height and width of simulated streets whose short side is at least `side`."""
    height = max(side, SIMULATED_SIZE[0])
    return height, height * SIMULATED_SIZE[1] // SIMULATED_SIZE[0]


def below(paths: Sequence[ScenePath], first: int) -> list[ScenePath]:
    """The scenes without those whose number is `first` (above 0) or more, which are left for tests."""
    return [path for path in paths if not (path.number is not None and path.number >= first > 0)]


def split(paths: Sequence[ScenePath], share: float) -> tuple[list[ScenePath], list[ScenePath]]:
    """Scenes of training and of validation; the latter are the last `share`, so that most neighboring frames stay together.

    `GAP` scenes between the two are not used. A single scene is used for both.
    """
    held = max(round(len(paths) * share), 1)
    if len(paths) <= held:
        return list(paths), list(paths)
    train = paths[: len(paths) - held]
    return list(train[: max(len(train) - GAP, 1)]), list(paths[len(paths) - held :])
