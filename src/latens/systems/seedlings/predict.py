"""Loaded seedling model: grades tray photographs and classifies crops."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.arguments import optional_whole
from latens.catalogue import training_data
from latens.data.images import ImageLike, read_image
from latens.errors import LatensError, ModelError, UsageError
from latens.hub import fitting, load_network, locate, read_config
from latens.inference.device import choose_device, in_plain_torch, plain_torch
from latens.inference.kept import keepable
from latens.inference.many import OnError, many
from latens.settings import decode
from latens.systems.seedlings.calibration import Calibration, probabilities
from latens.systems.seedlings.config import GraderConfig, GridOptions
from latens.systems.seedlings.crops import UNKNOWN
from latens.systems.seedlings.foreground import find_leaves, gray_of
from latens.systems.seedlings.lattice import Lattice
from latens.systems.seedlings.lots import Rates
from latens.systems.seedlings.model import GRADES, Grader, normalized, outlier_score
from latens.systems.seedlings.names import Shot, identify
from latens.systems.seedlings.networks import grader as build_grader
from latens.systems.seedlings.reading import TrayReading, read_trays
from latens.systems.seedlings.reference import Reference
from latens.systems.seedlings.rim import Rim, common_rim, rim_of

logger = logging.getLogger(__name__)

OUTLIER_SHARE = 0.25  # maximum share of crops with an outlier score above 1 in a photograph of the training distribution
BATCH = 256
RIMS = 3  # maximum number of photographs that determine the rim


class CropPrediction(NamedTuple):
    """Predictions for n crops."""

    classes: np.ndarray  # (n, K) calibrated probabilities
    seen: np.ndarray | None  # (n,) probability of having emerged; None for a model that was not trained on emergence
    outlier_score: np.ndarray  # (n,) distance from the training crops; 1 is its 99.5 % quantile


class GradedTray(NamedTuple):
    """A graded tray. Arrays have one value per cell, row by row from the top left."""

    path: Path | None
    shot: Shot
    lattice: Lattice
    areas: np.ndarray  # leaf areas in pixels
    seen: np.ndarray  # bool: p_seen >= 0.5
    p_seen: np.ndarray
    p_success: np.ndarray
    warnings: tuple[str, ...]
    out_of_distribution: bool  # the crops are unlike the training crops: `p_success` cannot be trusted
    reading: TrayReading | None = None  # pixels and crops; not kept by `grade_folder`

    def __repr__(self) -> str:
        day = "" if self.shot.day is None else f", day {self.shot.day}"
        return f"GradedTray({self.shot.tray}{day}, {int(self.seen.sum())} of {self.seen.size} plants seen)"

    @property
    def cols(self) -> int:
        return self.lattice.cols

    def plants(self) -> list[dict[str, Any]]:
        """One record per cell, with the columns of plants.csv."""
        centers = self.lattice.centers().reshape(-1, 2)
        return [
            {
                "tray": self.shot.tray,
                "day": "" if self.shot.day is None else self.shot.day,
                "row": index // self.cols + 1,
                "col": index % self.cols + 1,
                "id": f"{self.shot.tray}-r{index // self.cols + 1:02d}c{index % self.cols + 1:02d}",
                "x": round(float(x), 1),
                "y": round(float(y), 1),
                "seen": int(self.seen[index]),
                "p_seen": round(float(self.p_seen[index]), 4),
                "p_success": round(float(self.p_success[index]), 4),
                "area_px": round(float(self.areas[index]), 1),
            }
            for index, (x, y) in enumerate(centers)
        ]


@in_plain_torch
class SeedlingGrader:
    """A loaded seedling model. `classes` are "failure" and "success", or the classes of its training data."""

    def __init__(self, name: str, model_id: str, network: Grader, config: Mapping[str, Any], device: torch.device) -> None:
        self.name, self.model_id, self.device, self.precision = name, model_id, device, "float32"
        self.trained_on = training_data(model_id)  # bundled models only
        self.network = network.to(device).eval()
        self.settings: GraderConfig = decode(GraderConfig, config["model"])
        self.classes = tuple(map(str, config["classes"]))
        self.calibrations = {day: _calibration(one) for day, one in config["calibration"].items()}
        self.rates = {day: Rates(**one) for day, one in config.get("rates", {}).items()}
        self.seen_calibration = _calibration(config["seen"]) if "seen" in config else None
        if self.seen_calibration is None:
            self.network.seen = None  # grades alone do not train this output
        self.calibration(None), self.rates_of(None)  # raise for days that cannot be used
        self.area_threshold = float(config.get("area_threshold", 20.0))

    def __repr__(self) -> str:
        return f"SeedlingGrader({self.name}, weights {self.model_id[:12]}, {self.device}, classes {', '.join(self.classes)})"

    # -------------------------------------------------------------------------------------------------------- crops

    @torch.no_grad()
    def predict_crops(self, crops: np.ndarray, day: int | None) -> CropPrediction:
        """Predictions for crops (n, S, S, C) uint8 of one day; averaged over the days of the model if `day` is None."""
        day = optional_whole(day, "day")
        if not isinstance(crops, np.ndarray) or crops.ndim != 4 or crops.dtype != np.uint8 or not len(crops):
            raise UsageError("these are not crops", where="crops", hint="give uint8 (n, S, S, C), as crop_of returns them")
        days: Sequence[int] = (day,) if day is not None else self.network.days or (-1,)
        found = [self._predict_day(crops, one) for one in days]
        emerged = [one.seen for one in found if one.seen is not None]
        seen = np.mean(emerged, axis=0) if emerged else None
        return CropPrediction(np.mean([one.classes for one in found], axis=0), seen, found[0].outlier_score)

    @torch.no_grad()
    def logits(self, crops: np.ndarray, day: int) -> np.ndarray:
        """Logits (n, K) of crops (n, S, S, C) uint8 of one day, at the training priors."""
        found = []
        for start in range(0, len(crops), BATCH):
            batch = self._tensor(crops[start : start + BATCH])
            output = self.network(batch, torch.full((len(batch),), day, device=self.device))
            found.append(output.classes.double().cpu().numpy())
        return np.concatenate(found)

    def _predict_day(self, crops: np.ndarray, day: int) -> CropPrediction:
        classes, seen, scores = [], [], []
        for start in range(0, len(crops), BATCH):
            batch = self._tensor(crops[start : start + BATCH])
            output = self.network(batch, torch.full((len(batch),), day, device=self.device))
            classes.append(output.classes.double().cpu().numpy())
            seen += [] if output.seen is None else [output.seen.double().cpu().numpy()]
            scores.append(outlier_score(self.network, batch).cpu().numpy())
        chances = probabilities(np.concatenate(classes), self.calibration(day))
        emerged = probabilities(np.concatenate(seen), self.seen_calibration)[:, 1] if seen else None
        return CropPrediction(chances, emerged, np.concatenate(scores))

    def _tensor(self, crops: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.array(crops, order="C")).permute(0, 3, 1, 2).to(self.device)
        if pixels.shape[1] == 3 and self.settings.channels == 1:  # luma, as `gray_of`
            weights = torch.tensor([0.299, 0.587, 0.114], device=self.device).view(1, 3, 1, 1)
            pixels = (pixels.float() * weights).sum(dim=1, keepdim=True).round()
        elif pixels.shape[1] == 1 and self.settings.channels == 3:
            pixels = pixels.expand(-1, 3, -1, -1)
        return normalized(pixels)

    def calibration(self, day: int | None) -> Calibration:
        """Calibration of the nearest day that has one, otherwise of all days."""
        return self.calibrations[_nearest(self.calibrations, day)]

    def rates_of(self, day: int | None) -> Rates | None:
        """Held-out confusion counts of the nearest day; None if the model has none."""
        return self.rates[_nearest(self.rates, day)] if self.rates else None

    def classify(self, image: ImageLike, *, day: int | None = None) -> dict[str, float]:
        """Class probabilities of an image of one plant."""
        prediction = self.predict_crops(self.crop_of(image), day)
        return {name: float(value) for name, value in zip(self.classes, prediction.classes[0], strict=True)}

    def crop_of(self, image: ImageLike) -> np.ndarray:
        """Resizes a whole image to one crop (1, S, S, C)."""
        loaded = read_image(image)
        size, color = self.settings.size, self.settings.channels == 3
        pixels = loaded.pixels if color else gray_of(loaded)
        resized = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
        return resized.reshape(1, size, size, self.settings.channels)

    # -------------------------------------------------------------------------------------------------------- trays

    def grade(
        self,
        image: ImageLike,
        *,
        day: int | None = None,
        sown: date | None = None,
        grid: GridOptions = GridOptions(),  # noqa: B008
        reference: Reference | None = None,
    ) -> GradedTray:
        """Grades a photograph of one tray. Without `day`, the day is that of the file name (see `names.identify`).

        A date needs `sown`. `grid` has the rows and columns of the tray; `reference` helps to place the grid of a tray with few
        plants. Raises UsageError for a model of other classes and for options of a wrong type, InputError if no grid fits or
        several trays are found, and the exceptions of `read_image`.
        """
        return self.grade_trays(image, day=day, sown=sown, grid=grid, reference=reference)[0]

    def grade_many(
        self, images: Iterable[ImageLike], *, on_error: OnError | None = None, **options: Any
    ) -> Iterator[GradedTray]:
        """Yield the trays of photographs, one at a time; options as in `grade`. See `latens.inference.many`."""
        return many(self.grade, images, on_error, options)

    def grade_trays(
        self,
        image: ImageLike,
        *,
        day: int | None = None,
        sown: date | None = None,
        grid: GridOptions = GridOptions(),  # noqa: B008
        reference: Reference | None = None,
        shot: Shot | None = None,
    ) -> list[GradedTray]:
        """Grades the trays that `grid` selects in one photograph (see `grade`). Several trays are named NAME#1, NAME#2."""
        if self.classes != GRADES:
            what = f"the model {self.name} predicts {len(self.classes)} classes of plants, not success"
            raise UsageError(what, where="--model", hint="give a model trained on graded trays (`latens models`)")
        if not isinstance(grid, GridOptions):
            raise UsageError("this is no grid", where="grid", hint="give GridOptions(rows=10, cols=15)")
        if reference is not None and not isinstance(reference, Reference):
            raise UsageError("this is no reference", where="reference", hint="give that of `reference_for`")
        sown, day = checked_sown(sown), optional_whole(day, "day")
        path = Path(image) if isinstance(image, str | Path) else None
        shot = shot or (identify(path, sown=sown, day=day) if path is not None else Shot("tray", day))
        readings = read_trays(
            image, rows=grid.rows, cols=grid.cols, trays=grid.trays, tray=grid.tray, method=grid.method, day=shot.day,
            corners=grid.corners, reference=reference, size=self.settings.size,
        )  # fmt: skip
        if grid.trays == 1 and not grid.tray:
            return [self._graded(readings[0], path, shot)]
        numbers = [grid.tray] if grid.tray else range(1, len(readings) + 1)
        named = [shot._replace(tray=f"{shot.tray}#{number}") for number in numbers]
        return [self._graded(reading, path, one) for reading, one in zip(readings, named, strict=True)]

    def _graded(self, reading: TrayReading, path: Path | None, shot: Shot) -> GradedTray:
        prediction = self.predict_crops(reading.crops, shot.day)
        area = reading.areas * (64 / reading.lattice.pitch) ** 2
        p_seen, outside = prediction.seen, is_out_of_distribution(prediction)
        if p_seen is None or outside:  # from the leaf area
            p_seen = area / (area + max(self.area_threshold, 1e-6))
        warnings = self._warnings(reading, shot, prediction)
        return GradedTray(
            path,
            shot,
            reading.lattice,
            reading.areas,
            p_seen >= 0.5,
            p_seen,
            prediction.classes[:, 1],
            warnings,
            outside,
            reading,
        )

    def _warnings(self, reading: TrayReading, shot: Shot, prediction: CropPrediction) -> tuple[str, ...]:
        found = list(reading.notes)
        if shot.day is None:
            found.append(f"the day is unknown, so that probabilities are averaged over days: {shot.note or 'give --day'}")
        elif self.network.days and not min(self.network.days) <= shot.day <= max(self.network.days):
            low, high = min(self.network.days), max(self.network.days)
            found.append(
                f"day {shot.day} is outside the days {low} to {high} of the training data; predictions are extrapolated"
            )
        if is_out_of_distribution(prediction):
            share = float((prediction.outlier_score > 1).mean())
            text = f"{share:.0%} of the crops are unlike the training crops: p_success cannot be trusted"
            found.append(f"{text}, and p_seen is computed from the leaf area")
        return tuple(found)


def checked_sown(sown: object) -> date | None:
    """The date of sowing. Raises UsageError for other types than date and datetime."""
    if isinstance(sown, datetime):
        return sown.date()
    if sown is None or isinstance(sown, date):
        return sown
    raise UsageError(f"{sown!r} is not a date", where="sown", hint="give datetime.date(2024, 3, 1)")


def is_out_of_distribution(prediction: CropPrediction) -> bool:
    """True if more than OUTLIER_SHARE of the crops have an outlier score above 1."""
    return float((prediction.outlier_score > 1).mean()) > OUTLIER_SHARE


def reference_for(shot: Shot, graded: Sequence[GradedTray]) -> Reference | None:
    """Reference for the grid of a photograph: lattice and rim of the same tray on the nearest other day.

    Without another day, the common rim of the other trays; None if there is no rim.
    """
    day = shot.day if shot.day is not None else 0
    near = sorted(graded, key=lambda one: abs((one.shot.day if one.shot.day is not None else 0) - day))
    own = [one for one in near if one.shot.tray == shot.tray]
    others = [one for one in near if one.shot.tray != shot.tray]
    rims = [rim for one in (own or others)[:RIMS] if (rim := _rim(one)) is not None]
    if own:
        return Reference(own[0].lattice, common_rim(rims))
    rim = common_rim(rims)
    return None if rim is None else Reference(None, rim)


def _rim(one: GradedTray) -> Rim | None:
    """Rim of a graded photograph, which is read again."""
    if one.path is None:
        return None
    try:
        return rim_of(one.lattice, find_leaves(read_image(one.path)))
    except LatensError:
        return None


def _nearest(known: Mapping[str, Any], day: int | None) -> str:
    days = [int(name) for name in known if name != "all"]
    if day is None or day == UNKNOWN or not days:
        return "all"
    return str(min(days, key=lambda one: abs(one - day)))


def _calibration(plain: Mapping[str, Any]) -> Calibration:
    return Calibration(tuple(map(float, plain["shift"])), float(plain["temperature"]))


@keepable
@plain_torch()
def load(place: str | Path, *, device: str | torch.device = "auto", threads: int | None = None) -> SeedlingGrader:
    """Loads a model by name, folder or hub id. Raises ModelMissing, ModelError or DeviceUnavailable."""
    folder = locate(place)
    classes = _classes(folder)
    found, network = load_network(
        folder, "seedlings", GraderConfig, lambda settings: build_grader(settings, classes, fresh=False)
    )
    chosen = choose_device(device, threads)
    with fitting(folder):
        return SeedlingGrader(
            folder.parent.name if folder.name == "best" else folder.name, found.sha256, network, found.config, chosen
        )


def _classes(folder: Path) -> int:
    config = read_config(folder)
    names = config.get("classes")
    if config.get("system") == "seedlings" and (not isinstance(names, list) or len(names) < 2):
        raise ModelError("the settings of the model have no classes", where=str(folder), hint="save or train the model again")
    return len(names) if isinstance(names, list) else 2
