"""The object a user holds: tray photographs in, plants with their probabilities out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latens.data.images import ImageLike, read_image
from latens.errors import LatensError, ModelError, UsageError
from latens.hub import load_network, locate, read_config, unusable
from latens.inference.device import choose_device
from latens.settings import decode
from latens.systems.seedlings.calibration import Calibration, probabilities
from latens.systems.seedlings.config import GraderConfig, GridOptions
from latens.systems.seedlings.crops import UNKNOWN
from latens.systems.seedlings.foreground import find_leaves, gray_of
from latens.systems.seedlings.lattice import Lattice
from latens.systems.seedlings.lots import Rates
from latens.systems.seedlings.model import GRADES, Grader, normalized, strangeness
from latens.systems.seedlings.names import Shot, identify
from latens.systems.seedlings.networks import grader as build_grader
from latens.systems.seedlings.reading import Reading, read_trays
from latens.systems.seedlings.reference import Reference
from latens.systems.seedlings.rim import Rim, common_rim, rim_of

logger = logging.getLogger(__name__)

STRANGE_SHARE = 0.25  # of the crops of a photograph beyond the model's limit, from which it is called unlike
BATCH = 256
RIMS = 3  # photographs that tell where the rim lies


class Opinion(NamedTuple):
    """What a model says of n crops."""

    classes: np.ndarray  # (n, K) calibrated probabilities
    seen: np.ndarray | None  # (n,) probability of having emerged
    strange: np.ndarray  # (n,) distance from the training crops; above 1: unlike 99.5 % of them


class GradedTray(NamedTuple):
    """One photograph; arrays have one value for each cell, in rows from the top left."""

    path: Path | None
    shot: Shot
    lattice: Lattice
    areas: np.ndarray  # of the leaves, pixels
    seen: np.ndarray  # bool
    p_seen: np.ndarray
    p_success: np.ndarray
    warnings: tuple[str, ...]
    reading: Reading | None = None  # pixels; dropped in batches

    def __repr__(self) -> str:
        day = "" if self.shot.day is None else f", day {self.shot.day}"
        return f"GradedTray({self.shot.tray}{day}, {int(self.seen.sum())} of {self.seen.size} plants seen)"

    @property
    def cols(self) -> int:
        return self.lattice.cols

    def plants(self) -> list[dict[str, Any]]:
        """One record for each cell, as a line of plants.csv."""
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


class SeedlingGrader:
    """A loaded model. `classes` are "failure" and "success", or the names of the user's classes."""

    def __init__(self, name: str, model_id: str, network: Grader, config: Mapping[str, Any], device: torch.device) -> None:
        self.name, self.model_id, self.device, self.precision = name, model_id, device, "float32"
        self.network = network.to(device).eval()
        self.settings: GraderConfig = decode(GraderConfig, config["model"])
        self.classes = tuple(map(str, config["classes"]))
        self.calibrations = {day: _calibration(one) for day, one in config["calibration"].items()}
        self.rates = {day: Rates(**one) for day, one in config.get("rates", {}).items()}
        self.seen_calibration = _calibration(config["seen"]) if "seen" in config else None
        self.area_threshold = float(config.get("area_threshold", 20.0))

    def __repr__(self) -> str:
        return f"SeedlingGrader({self.name}, weights {self.model_id[:12]}, {self.device}, classes {', '.join(self.classes)})"

    # -------------------------------------------------------------------------------------------------------- crops

    @torch.no_grad()
    def judge(self, crops: np.ndarray, day: int | None) -> Opinion:
        """Crops (n, S, S, C) uint8 of one day. For an unknown day the probabilities of all days are averaged."""
        days: Sequence[int] = (day,) if day is not None else self.network.days or (-1,)
        found = [self._judge(crops, one) for one in days]
        emerged = [one.seen for one in found if one.seen is not None]
        seen = np.mean(emerged, axis=0) if emerged else None
        return Opinion(np.mean([one.classes for one in found], axis=0), seen, found[0].strange)

    @torch.no_grad()
    def logits(self, crops: np.ndarray, day: int) -> np.ndarray:
        """Logits (n, K) of crops (n, S, S, C) uint8 of one day, at the priors of training; strange crops are not looked for."""
        found = []
        for start in range(0, len(crops), BATCH):
            batch = self._tensor(crops[start : start + BATCH])
            output = self.network(batch, torch.full((len(batch),), day, device=self.device))
            found.append(output.classes.double().cpu().numpy())
        return np.concatenate(found)

    def _judge(self, crops: np.ndarray, day: int) -> Opinion:
        classes, seen, strange = [], [], []
        for start in range(0, len(crops), BATCH):
            batch = self._tensor(crops[start : start + BATCH])
            output = self.network(batch, torch.full((len(batch),), day, device=self.device))
            classes.append(output.classes.double().cpu().numpy())
            seen += [] if output.seen is None else [output.seen.double().cpu().numpy()]
            strange.append(strangeness(self.network, batch).cpu().numpy())
        chances = probabilities(np.concatenate(classes), self.calibration(day))
        emerged = probabilities(np.concatenate(seen), self.seen_calibration)[:, 1] if seen else None
        return Opinion(chances, emerged, np.concatenate(strange))

    def _tensor(self, crops: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.array(crops, order="C")).permute(0, 3, 1, 2).to(self.device)
        if pixels.shape[1] == 3 and self.settings.channels == 1:  # luma, as `gray_of`
            weights = torch.tensor([0.299, 0.587, 0.114], device=self.device).view(1, 3, 1, 1)
            pixels = (pixels.float() * weights).sum(dim=1, keepdim=True).round()
        elif pixels.shape[1] == 1 and self.settings.channels == 3:
            pixels = pixels.expand(-1, 3, -1, -1)
        return normalized(pixels)

    def calibration(self, day: int | None) -> Calibration:
        """Of the nearest day that has its own, else of all days."""
        return self.calibrations[_nearest(self.calibrations, day)]

    def rates_of(self, day: int | None) -> Rates | None:
        """Held-out sensitivity and specificity on a day."""
        return self.rates[_nearest(self.rates, day)] if self.rates else None

    def classify(self, image: ImageLike, *, day: int | None = None) -> dict[str, float]:
        """Probabilities of the classes for one image that shows one plant."""
        opinion = self.judge(self.crop_of(image), day)
        return {name: float(value) for name, value in zip(self.classes, opinion.classes[0], strict=True)}

    def crop_of(self, image: ImageLike) -> np.ndarray:
        """A whole image as one crop (1, S, S, C)."""
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
        """A photograph of one tray. The day is `day`, or that of the file's name (see `names.identify`).

        Raises UsageError for a model of other classes, InputError where no grid fits or more than one tray is found, and what
        `read_image` raises.
        """
        return self.grade_trays(image, day=day, sown=sown, grid=grid, reference=reference)[0]

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
        """All trays that `grid` asks for in one photograph; see `grade`. Trays of several are named NAME#1, NAME#2."""
        if self.classes != GRADES:
            what = f"the model {self.name} tells {len(self.classes)} classes of plants, not success"
            raise UsageError(what, where="--model", hint="name a model trained on graded trays (`latens models`)")
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

    def _graded(self, reading: Reading, path: Path | None, shot: Shot) -> GradedTray:
        opinion = self.judge(reading.crops, shot.day)
        area = reading.areas * (64 / reading.lattice.pitch) ** 2
        p_seen = opinion.seen
        if p_seen is None or is_strange(opinion):  # leaves larger than the threshold
            p_seen = area / (area + max(self.area_threshold, 1e-6))
        warnings = self._warnings(reading, shot, opinion)
        return GradedTray(
            path, shot, reading.lattice, reading.areas, p_seen >= 0.5, p_seen, opinion.classes[:, 1], warnings, reading
        )

    def _warnings(self, reading: Reading, shot: Shot, opinion: Opinion) -> tuple[str, ...]:
        found = list(reading.notes)
        if shot.day is None:
            found.append(f"day not known ({shot.note or 'give --day'}); the grades of all days are averaged")
        elif self.network.days and not min(self.network.days) <= shot.day <= max(self.network.days):
            low, high = min(self.network.days), max(self.network.days)
            found.append(f"day {shot.day} is outside the days {low} to {high} that the model knows; grades are a guess")
        if is_strange(opinion):
            share = float((opinion.strange > 1).mean())
            text = f"{share:.0%} of the crops are unlike those that the model was trained on: do not trust its grades"
            found.append(f"{text}; emergence is judged by leaf area")
        return tuple(found)


def is_strange(opinion: Opinion) -> bool:
    """Whether too many crops of a photograph are unlike the training crops."""
    return float((opinion.strange > 1).mean()) > STRANGE_SHARE


def reference_for(shot: Shot, graded: Sequence[GradedTray]) -> Reference | None:
    """What other photographs tell of a tray: the grid of the nearest day of the same tray, and where the rim lies around it.

    Without another day of it, the rim that other trays agree on.
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
    """The rim of a graded photograph, which is read again for it."""
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


def load(place: str | Path, *, device: str = "auto", threads: int | None = None) -> SeedlingGrader:
    """A model by name, folder or hub id. Raises ModelMissing, ModelError or DeviceUnavailable."""
    folder = locate(place)
    classes = _classes(folder)
    found, network = load_network(
        folder, "seedlings", GraderConfig, lambda settings: build_grader(settings, classes, fresh=False)
    )
    chosen = choose_device(device, threads)
    try:
        return SeedlingGrader(
            folder.parent.name if folder.name == "best" else folder.name, found.sha256, network, found.config, chosen
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(folder, error) from None


def _classes(folder: Path) -> int:
    config = read_config(folder)
    names = config.get("classes")
    if config.get("system") == "seedlings" and (not isinstance(names, list) or len(names) < 2):
        raise ModelError("names no classes", where=str(folder), hint="save or train the model again")
    return len(names) if isinstance(names, list) else 2
