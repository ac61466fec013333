"""Training data: simulated trays, folders of tray photographs with grades.csv, class folders, and packs of crops."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from latens.data.images import IMAGE_ENDINGS
from latens.data.inputs import files_under
from latens.data.labeled import open_labeled
from latens.data.notes import left_out
from latens.data.origins import without_drawn
from latens.data.source import Source
from latens.errors import InputError, LatensError, UsageError, counted
from latens.systems.seedlings.config import CropsConfig, GraderConfig
from latens.systems.seedlings.crops import NO_DAY, UNKNOWN, Crops, Part, concatenate, load_pack, split
from latens.systems.seedlings.model import GRADES, normalized
from latens.systems.seedlings.names import identify, parse_date
from latens.systems.seedlings.simulator.photograph import Place, TrayPhotograph, draw_camera, photograph
from latens.systems.seedlings.simulator.plants import Preset
from latens.systems.seedlings.tables import SUCCESSES, Plant, read_grades
from latens.training.data import generator

logger = logging.getLogger(__name__)

DAY_HINT = (
    "name photographs TRAY_dayN, or give the date of sowing (training: --set data.sown=DATE, evaluation: --set sown=DATE)"
)
LABELS, PRESETS = "labels", ("easy", "thesis", "hard")


def open_crops(sources: Sequence[Source], model: GraderConfig, config: CropsConfig) -> Crops:
    """Crops of all sources; of simulated trays without sources. Raises InputError, UnreadableInput or UsageError.

    A source is a folder of photographs (with grades.csv in it, or `labels:FILE`), a folder with one subfolder per class, a pack
    of crops (.npz), or `simulated:PRESET`.
    """
    labels = [source.path for source in sources if source.kind == LABELS]
    data = [source for source in sources if source.kind != LABELS]
    if labels and not any(source.kind == "" and source.path.is_dir() for source in data):  # simulated trays have grades
        hint = f"give the folder of the photographs, too: --data TRAYS/ {LABELS}:{labels[0]}"
        raise UsageError("grades without the photographs of their trays", where=f"--data {LABELS}:{labels[0]}", hint=hint)
    parts = [_open_one(source, labels, model, config) for source in data] or [
        simulated(model.size, config, model.channels == 3)
    ]
    found = concatenate(parts)
    channels = found.pixels.shape[3]
    if channels != model.channels:
        kind = "gray" if channels == 1 else "color"
        what = f"the crops are {kind} and the model takes {model.channels} channel{'s' if model.channels > 1 else ''}"
        raise UsageError(what, where="--set model.channels", hint=f"set model.channels={channels}")
    if found.pixels.shape[1] != model.size:
        found = found._replace(pixels=resize(found.pixels, model.size))
    if (found.day != NO_DAY).any():
        of_no_day = int((found.day == NO_DAY).sum())
        if of_no_day:
            logger.warning("left out: %s of photographs without a day; %s", counted(of_no_day, "crop"), DAY_HINT)
        found = found.of_days(config.days)
    elif model.days and found.classes == GRADES:
        what = "no photograph has a known day, and the day is an input of the model"
        raise InputError(what, where="--data", hint=f"{DAY_HINT}, or set model.days=[]")
    if not found.size:
        raise InputError(
            f"the data have no crops of the days {', '.join(map(str, config.days))}",
            where="--data",
            hint="choose days of the data with --set data.days=DAYS",
        )
    return found


def _open_one(source: Source, labels: Sequence[Path], model: GraderConfig, config: CropsConfig) -> Crops:
    if source.kind == "simulated":
        from dataclasses import replace

        if source.place not in PRESETS:
            raise UsageError(f"unknown preset '{source.place}'", where=f"--data {source}", hint=f"known: {', '.join(PRESETS)}")
        return simulated(model.size, replace(config, preset=cast("Preset", source.place)), model.channels == 3)
    if source.kind:
        hint = "give a folder of trays and labels:grades.csv, a folder of classes, a pack of crops, or simulated:thesis"
        raise UsageError(f"'{source}' is not a known kind of data", where="--data", hint=hint)
    path = source.path
    if path.suffix == ".npz" and path.is_file():
        return load_pack(path)
    own = path / "grades.csv"
    tables = list(labels) or ([own] if own.is_file() else [])
    if tables and path.is_dir():
        return read_tray_crops(path, tables, model.size, config)
    return class_folders(source, model.size, model.channels)


def class_folders(source: Source, size: int, channels: int) -> Crops:
    """Crops of class folders or of another labeled data set. Every image is one crop, resized to `size`."""
    found = open_labeled(source, "train", hold_out=False)
    if len(found.classes) < 2:
        hint = "give a folder with one subfolder of crops per class, or tray photographs with grades.csv (labels:FILE)"
        raise InputError("the images have no labels", where=str(source), hint=hint)
    mode = "RGB" if channels == 3 else "L"
    pixels, kept = [], []
    for index in range(len(found)):
        try:
            image = Image.fromarray(found.read(index)).convert(mode)
        except LatensError as error:
            left_out(error)
            continue
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(resized, np.uint8).reshape(size, size, channels))
        kept.append(index)
    count = len(kept)
    unknown = np.full(count, UNKNOWN)
    return Crops(
        np.stack(pixels), found.labels[kept], unknown, np.full(count, NO_DAY), np.array(["crops"] * count),
        np.asarray(kept), np.zeros(count), found.classes,
    )  # fmt: skip


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes square uint8 crops (n, S, S, C) bilinearly, with antialiasing when they shrink."""
    stacked = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    small = size < pixels.shape[1]
    done = F.interpolate(stacked, (size, size), mode="bilinear", antialias=small, align_corners=False)
    return done.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


# ----------------------------------------------------------------------------------------------------- photographs


def read_tray_crops(folder: Path, tables: Sequence[Path], size: int, config: CropsConfig) -> Crops:
    """Crops of all graded plants in the photographs of a folder. Photographs without a grid are skipped with a warning.

    Raises InputError if no photograph can be used.
    """
    from latens.systems.seedlings.reading import Method, read_tray

    grades: dict[Plant, int] = {}
    for table in tables:
        grades |= read_grades(table)
    trays = {tray for tray, _, _ in grades}
    method: Method = "thesis" if config.method == "thesis" else "lattice"
    sown = parse_date(config.sown, "sown") if config.sown else None
    parts: list[Crops] = []
    for path in sorted(without_drawn(files_under(folder, IMAGE_ENDINGS), folder)):
        shot = identify(path, sown=sown)
        if sown is not None and shot.day is None:
            logger.warning("%s: %s", path, shot.note)
        if shot.tray not in trays:
            logger.warning("left out: %s: no table of grades has the tray '%s'", path, shot.tray)
            continue
        if shot.day is not None and shot.day not in config.days:
            logger.warning("left out: %s: day %d is not one of the days %s", path, shot.day, list(config.days))
            continue
        try:
            reading = read_tray(path, rows=config.rows, cols=config.cols, method=method, day=shot.day, size=size)
        except LatensError as error:
            left_out(error)
            continue
        cells = [(shot.tray, index // config.cols + 1, index % config.cols + 1) for index in range(config.rows * config.cols)]
        label = np.array([int(grades[cell] in SUCCESSES) if cell in grades else UNKNOWN for cell in cells])
        parts.append(
            tray_crops(
                reading.crops, label, np.full(len(cells), UNKNOWN), shot.day, shot.tray, reading.areas, reading.lattice.pitch
            )
        )
    if not parts:
        hint = f"TRAY in their names is that in {tables[0].name}; {DAY_HINT}; set rows, cols and days with --set"
        raise InputError("no photograph of a graded tray could be read", where=str(folder), hint=hint)
    found = concatenate(parts)
    return found.take(found.label != UNKNOWN)


def tray_crops(
    pixels: np.ndarray, label: np.ndarray, seen: np.ndarray, day: float | None, tray: str, areas: np.ndarray, pitch: float
) -> Crops:
    count = len(label)
    number = NO_DAY if day is None else int(day)
    return Crops(
        pixels, label, seen, np.full(count, number), np.array([tray] * count), np.arange(count), areas * (64 / pitch) ** 2
    )


def simulated(size: int, config: CropsConfig, color: bool = False) -> Crops:
    """Crops of simulated trays on all days, read by `config.method`. Trays that the method cannot read are skipped.

    The last four data sets are cached for trainings that differ in balance or augmentation only.
    """
    names = ("trays", "days", "rows", "cols", "preset", "method", "simulated_seed")
    return _simulated(size, CropsConfig(**{name: getattr(config, name) for name in names}), color)


@lru_cache(maxsize=4)
def _simulated(size: int, config: CropsConfig, color: bool) -> Crops:
    logger.info("simulating %d trays on %d days", config.trays, len(config.days))
    parts: list[Crops] = []
    for tray in range(config.trays):
        for day in config.days:
            made = photograph(
                config.simulated_seed, tray, day, rows=config.rows, cols=config.cols, preset=config.preset, color=color
            )
            parts += _crops_of(made, tray, day, size, config)
    if not parts:
        raise InputError("no simulated tray could be read", hint="set data.method=lattice")
    return concatenate(parts)


def _crops_of(made: TrayPhotograph, tray: int, day: int, size: int, config: CropsConfig) -> list[Crops]:
    label, seen = made.plants.success.astype(np.int64), made.seen.ravel().astype(np.int64)
    name = f"tray{tray:03d}"
    if config.method == "truth":
        pixels, pitch = true_crops(made, config.simulated_seed, tray, size)
        leaves = np.bincount(made.owner[made.owner >= 0], minlength=len(label)).astype(float)
        return [tray_crops(pixels, label, seen, day, name, leaves, pitch)]
    from latens.systems.seedlings.reading import read_tray

    try:
        reading = read_tray(made.pixels, rows=config.rows, cols=config.cols, method=config.method, day=day, size=size)
    except LatensError as error:
        logger.warning("left out: %s on day %d: %s", name, day, error.what)
        return []
    return [tray_crops(reading.crops, label, seen, day, name, reading.areas, reading.lattice.pitch)]


def true_crops(made: TrayPhotograph, seed: int, tray: int, size: int) -> tuple[np.ndarray, float]:
    """Crops at the true cells, sampled bilinearly, and the pitch in pixels."""
    rows, cols = made.centers.shape[:2]
    camera = draw_camera(seed, tray, made.day)
    offsets = (np.arange(size) + 0.5) / size - 0.5
    cells = np.stack(np.meshgrid(offsets, offsets), axis=-1)
    nodes = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).reshape(-1, 1, 1, 2)
    at = torch.from_numpy(Place(camera, rows, cols)(cells + nodes)).float()
    height, width = made.pixels.shape[:2]
    grid = (2 * at + 1) / torch.tensor([width, height]) - 1
    image = torch.from_numpy(made.pixels.reshape(height, width, -1)).permute(2, 0, 1)[None].float()
    flat = F.grid_sample(image, grid.reshape(1, -1, size, 2), align_corners=False, padding_mode="border")
    found = flat[0].reshape(-1, len(nodes), size, size).permute(1, 2, 3, 0)
    return found.round().clamp(0, 255).byte().contiguous().numpy(), camera.pitch


# --------------------------------------------------------------------------------------------------------- batches


class CropBatches:
    """Training batches, shuffled each epoch, balanced and augmented as configured. Raises InputError for an empty part."""

    def __init__(self, crops: Crops, config: CropsConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.parts = split(crops, config.split, config.train_share, config.validation_share, config.split_seed, config.fold)
        known = crops.label != UNKNOWN
        self.parts = {part: indices[known[indices]] for part, indices in self.parts.items()}
        empty = [part for part, indices in self.parts.items() if not len(indices)]
        if empty:
            raise InputError(
                f"the {empty[0]} part has no crops", where="--data", hint="give more data, or set data.split=plant"
            )
        self.crops = crops
        self.pixels = torch.from_numpy(crops.pixels).permute(0, 3, 1, 2)
        self.natural = np.bincount(crops.label[self.parts["train"]], minlength=len(crops.classes))
        self.order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    @property
    def trained(self) -> np.ndarray:
        """Number of crops of each class in an epoch."""
        return np.full_like(self.natural, self.natural.max()) if self.config.oversample else self.natural

    def epoch(self, number: int) -> np.ndarray:
        """Crop indices of one epoch, in order."""
        if self.order[0] != number:
            rng = generator(self.seed, number, 7_777)
            chosen = [self.parts["train"]]
            labels = self.crops.label[chosen[0]]
            for label, count in enumerate(self.natural):
                if self.config.oversample and 0 < count < self.natural.max():
                    chosen.append(rng.choice(chosen[0][labels == label], self.natural.max() - count))
            self.order = (number, rng.permutation(np.concatenate(chosen)))
        return self.order[1]

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        first = self.epoch(0)
        per_epoch = -(-len(first) // self.config.batch)
        order = self.epoch(step // per_epoch)
        start = step % per_epoch * self.config.batch
        chosen = np.take(order, np.arange(start, start + self.config.batch), mode="wrap")
        made = self.tensors(chosen)
        if self.config.augment:
            made["crops"] = augment(made["crops"], self.config, generator(self.seed, step, rank))
        return made

    def validation(self) -> Sequence[dict[str, Tensor]]:
        return self.batches("validation")

    def batches(self, part: Part) -> list[dict[str, Tensor]]:
        """All crops of a part in order, in batches of 512."""
        indices = self.parts[part]
        return [self.tensors(chunk) for chunk in np.split(indices, range(512, len(indices), 512))]

    def tensors(self, chosen: np.ndarray) -> dict[str, Tensor]:
        fields = {
            name: torch.from_numpy(getattr(self.crops, name)[chosen].astype(np.int64)) for name in ("label", "seen", "day")
        }
        return {"crops": normalized(self.pixels[torch.from_numpy(chosen)]), **fields}


def augment(crops: Tensor, config: CropsConfig, rng: np.random.Generator) -> Tensor:
    """Random rotation, flips and affine map of normalized crops, as one warp (Perugachi-Diaz 2024, section 3.3.3)."""
    count = len(crops)
    turn = rng.integers(0, 4, count) * np.pi / 2 if config.rotation == "quarter" else rng.uniform(-np.pi / 2, np.pi / 2, count)
    scale = 1 + config.scale * rng.uniform(-1, 1, count)
    shear = np.tan(np.deg2rad(config.shear) * rng.uniform(-1, 1, count))
    flips = rng.integers(0, 2, (count, 2)) * 2 - 1
    cos, sin = np.cos(turn) / scale, np.sin(turn) / scale
    matrix = np.stack([np.stack([cos, -sin + shear * cos], -1), np.stack([sin, cos + shear * sin], -1)], 1) * flips[:, None]
    shift = 2 * config.shift * rng.uniform(-1, 1, (count, 2, 1))
    theta = torch.from_numpy(np.concatenate([matrix, shift], axis=2)).float()
    grid = F.affine_grid(theta, list(crops.shape), align_corners=False)
    moved = F.grid_sample(crops, grid, align_corners=False, padding_mode=config.padding)
    if config.contrast:
        gain = torch.from_numpy(np.exp(config.contrast * rng.standard_normal((count, 1, 1, 1)))).float()
        lift = torch.from_numpy(0.15 * config.contrast * rng.standard_normal((count, 1, 1, 1))).float()
        moved = ((moved + 0.5) * gain + lift).clamp(0, 1) - 0.5
    return moved
