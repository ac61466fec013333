"""Labeled crops of plants as arrays, and their split into training, validation and test."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from latens.data.files import write_atomic
from latens.data.packs import read_pack
from latens.data.splits import place_of
from latens.errors import InputError, UnreadableInput
from latens.shapes import Float, Int, UInt8
from latens.systems.seedlings.model import GRADES

NO_DAY = -1
UNKNOWN = -1
FIELDS = ("pixels", "label", "seen", "day", "tray", "place", "area")
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


class Crops(NamedTuple):
    """n labeled crops. A plant is identified by (tray, place) and occurs once per day."""

    pixels: UInt8[np.ndarray, "n S S C"]
    label: Int[np.ndarray, "n"]  # index into `classes`, -1 unknown
    seen: Int[np.ndarray, "n"]  # 1 emerged, 0 not, -1 unknown
    day: Int[np.ndarray, "n"]  # -1: no day
    tray: np.ndarray  # (n,) names
    place: Int[np.ndarray, "n"]  # index of the cell in its tray
    area: Float[np.ndarray, "n"]  # of the leaves, pixels at a pitch of 64
    classes: tuple[str, ...] = GRADES

    @property
    def size(self) -> int:
        """Number of crops."""
        return len(self.label)

    def take(self, chosen: np.ndarray) -> Crops:
        """Crops at these indices, or where a mask is true."""
        return self._replace(**{name: getattr(self, name)[chosen] for name in FIELDS})

    def of_days(self, days: Sequence[int]) -> Crops:
        """Crops of these days."""
        return self.take(np.isin(self.day, days))

    def plants(self) -> np.ndarray:
        """Name TRAY/PLACE of the plant of each crop."""
        return np.char.add(np.char.add(self.tray.astype(str), "/"), self.place.astype(str))

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of pixels, labels, names and classes."""
        parts = [np.ascontiguousarray(field).tobytes() for field in (self.pixels, self.label, self.seen, self.day, self.place)]
        parts += ["|".join(map(str, self.tray)).encode("utf-8", "surrogateescape"), repr(self.classes).encode()]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def concatenate(parts: Sequence[Crops]) -> Crops:
    """Concatenates crops. Raises InputError for different sizes, channels or classes."""
    first = parts[0]
    if len(parts) == 1:
        return first
    for other in parts[1:]:
        if other.classes != first.classes:
            raise InputError("the data sets have different classes", where="--data")
        if other.pixels.shape[1:] != first.pixels.shape[1:]:
            raise InputError(
                "gray and color crops, or crops of different sizes, are mixed",
                where="--data",
                hint="give data sets of one kind",
            )
    fields: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS}
    return first._replace(**fields)


def save_pack(crops: Crops, path: Path) -> None:
    """Writes crops to an .npz file, which `--data` accepts."""
    buffer = io.BytesIO()
    plain = {name: value for name, value in crops._asdict().items() if name != "classes"}
    np.savez(buffer, **{**plain, "tray": crops.tray.astype(str)}, classes=np.array(crops.classes))
    write_atomic(path, buffer.getvalue())


def load_pack(path: Path) -> Crops:
    """Reads a file of `save_pack`. Raises UnreadableInput.

    The last pack is cached, so its arrays must not be modified.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # `read_pack` reports the missing file
    return _load_pack(path, changed)


@lru_cache(maxsize=1)
def _load_pack(path: Path, changed: int) -> Crops:
    arrays = read_pack(path)
    try:
        fields = {name: arrays[name] for name in Crops._fields if name != "classes"}
        made = Crops(**fields, classes=tuple(str(name) for name in arrays["classes"]))
    except KeyError as error:
        hint = "give a folder of trays, a folder of classes, or a pack of crops"
        raise UnreadableInput(f"the pack has no array {error}", where=str(path), hint=hint) from None
    if made.pixels.ndim != 4 or any(len(field) != made.size for field in made[:-1]):
        raise UnreadableInput("the arrays of the pack have inconsistent lengths", where=str(path))
    return made


def split(
    crops: Crops, by: Literal["tray", "plant", "leaky"], train: float, validation: float, seed: int = 0, fold: int = 0
) -> dict[Part, np.ndarray]:
    """Indices of training, validation and test crops.

    Trays or plants are ordered by a hash of name and seed and cut by share, so that a plant belongs to one part on all days.
    `leaky` orders plants separately for every day, as the thesis does (its Table 3.1 has different shares each day). Data with
    fewer than three trays are split by plant.
    """
    plants = crops.plants()
    if by == "tray" and len(set(crops.tray)) > 2:
        keys = crops.tray.astype(str)
    elif by == "leaky":
        keys = np.char.add(np.char.add(plants, " day "), crops.day.astype(str))
    else:
        keys = plants
    found: dict[Part, list[np.ndarray]] = {part: [] for part in PARTS}
    for day in np.unique(crops.day) if by == "leaky" else [None]:
        of_day = np.arange(crops.size) if day is None else np.flatnonzero(crops.day == day)
        names = sorted(set(keys[of_day]), key=lambda name: place_of(f"seedlings {seed} {name}"))
        names = np.roll(names, round(fold * (1 - train - validation) * len(names))).tolist()
        cuts = (round(train * len(names)), round((train + validation) * len(names)))
        groups = (names[: cuts[0]], names[cuts[0] : cuts[1]], names[cuts[1] :])
        for part, group in zip(PARTS, groups, strict=True):
            found[part].append(of_day[np.isin(keys[of_day], group)])
    return {part: np.sort(np.concatenate(indices)) for part, indices in found.items()}
