"""Depth maps for `latens haze`: the map of an image by its name, its format, and the camera of a disparity map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latens.errors import UsageError

if TYPE_CHECKING:
    from latens.data.depth import Camera, DepthFormat
    from latens.inference.batch import Job

CITYSCAPES = "cityscapes"
IMAGE_MARK, DISPARITY_MARK, CAMERA_MARK = "_leftImg8bit", "_disparity", "_camera"  # of files of one Cityscapes image


@dataclass(frozen=True, kw_only=True)
class DepthMaps:
    """The options of depth maps.

    `place` is a file or a folder; `form` the name of a format; `camera` a JSON file, a folder of them or "focal,baseline";
    `channel` the channel of an EXR file.
    """

    place: Path
    form: str | None = None
    camera: str | None = None
    channel: str | None = None

    def __post_init__(self) -> None:
        from latens.data.depth import FORMATS, format_of

        if self.form is not None and self.form != CITYSCAPES:
            if self.form not in FORMATS:
                known = ", ".join([*FORMATS, CITYSCAPES])
                raise UsageError(f"there is no depth format '{self.form}'", where="--depth-format", hint=f"known: {known}")
            format_of(self.form)
        if self.camera is not None and self.form != CITYSCAPES:
            raise UsageError("--camera is for disparity", hint=f"add --depth-format {CITYSCAPES}, or leave it out")

    def of(self, job: Job) -> tuple[Path, DepthFormat]:
        """The depth map of an image and its format. Raises UsageError if there is no map or no camera."""
        from dataclasses import replace

        from latens.data.depth import cityscapes_format, default_format, format_of

        path = self._map(job) if self.place.is_dir() else self.place
        if self.form == CITYSCAPES:
            form = cityscapes_format(self._camera(path))
        else:
            form = default_format(path) if self.form is None else format_of(self.form)
        if self.channel is None:
            return path, form
        if path.suffix.lower() != ".exr":
            raise UsageError("only EXR files have named channels", where=str(path), hint="leave --depth-channel out")
        return path, replace(form, channel=self.channel)

    def _map(self, job: Job) -> Path:
        """The only map of an image in the folder. Raises UsageError if there is none, and if there are several."""
        from latens.data.depth import COMPANIONS, DEPTH_ENDINGS

        image = job.input
        stems = [f"{image.stem}{mark}" for mark in ("", *COMPANIONS)]
        if image.stem.endswith(IMAGE_MARK):
            stems.append(image.stem.removesuffix(IMAGE_MARK) + DISPARITY_MARK)
        folders = dict.fromkeys([self.place / Path(job.relative).parent, self.place])
        for folder in folders:
            names = [folder / f"{stem}{ending}" for stem in stems for ending in sorted(DEPTH_ENDINGS)]
            found = [path for path in names if path.is_file() and not path.samefile(image)]
            marked = [path for path in found if path.stem != image.stem]  # a file of the same name may be another photograph
            if len(marked or found) > 1:
                candidates = ", ".join(path.name for path in marked or found)
                what = f"several depth maps for {image.name}: {candidates}"
                raise UsageError(what, where=str(folder), hint="name one file with --depth, or move the others away")
            if found:
                return (marked or found)[0]
        looked = f"looked for {image.stem}[_depth|_depth256].npy, .png ..., and X_disparity.png for X_leftImg8bit.png"
        raise UsageError(f"no depth map for {image.name}", where=str(self.place), hint=looked)

    def _camera(self, disparity: Path) -> Camera:
        from latens.data.depth import read_camera

        numbers = _numbers(self.camera)
        if numbers is not None:
            return numbers
        if self.camera is not None and not Path(self.camera).is_dir():
            return read_camera(Path(self.camera))
        places = list(_camera_files(disparity, self.camera))
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            hint = "give --camera FILE.json, or --camera FOCAL,BASELINE in pixels and meters, such as 2262.5,0.2093"
            raise UsageError(f"there is no camera file {places[0].name}", where=str(disparity), hint=hint)
        return read_camera(found)


def _numbers(text: str | None) -> Camera | None:
    """The camera "focal,baseline"; None for other texts. Raises UsageError for numbers that are not positive."""
    from latens.data.depth import Camera

    try:
        focal, baseline = (float(number) for number in (text or "").split(","))
    except ValueError:
        return None
    if not (math.isfinite(focal) and math.isfinite(baseline) and focal > 0 and baseline > 0):
        raise UsageError("focal length and baseline must be above 0", where=f"--camera {text}")
    return Camera(focal, baseline)


def _camera_files(disparity: Path, folder: str | None) -> Iterator[Path]:
    """Places of the camera file: in the folder, next to the map, or in camera/ where the map is in disparity/."""
    name = disparity.stem.removesuffix(DISPARITY_MARK) + CAMERA_MARK + ".json"
    if folder is not None:
        yield Path(folder) / name
        yield Path(folder) / disparity.parent.name / name  # by city
        return
    yield disparity.with_name(name)
    parts = disparity.parts
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "disparity":
            yield Path(*parts[:index], "camera", *parts[index + 1 : -1], name)
